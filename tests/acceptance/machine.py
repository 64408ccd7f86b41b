"""A machine with a systemd of its own: PID 1 of new namespaces, on an overlay of this machine's root. It boots in seconds.

Nothing outside is touched: what it writes lies in a tmpfs, its network is its own loopback, its units are the
distribution's early ones and ours. adaptd lies in /opt/adaptd there: this checkout, this environment's packages.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.acceptance.daemon import until

SYSTEMD = Path("/lib/systemd/systemd")
CHECKOUT = Path(__file__).parents[2]
BOOT_S, COMMAND_S = 30.0, 60.0
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
BOOT = """
set -eu
folder=$1 base=$2 packages=$3 checkout=$4 python=$5 cgroup=$6
echo $$ > "$cgroup/cgroup.procs"
exec unshare --mount --pid --fork --uts --ipc --net --cgroup --kill-child bash -euc '
folder=$1 base=$2 packages=$3 checkout=$4 python=$5
mount --make-rprivate /
mount -t tmpfs tmpfs "$folder"
mkdir "$folder"/up "$folder"/work "$folder"/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/up,workdir=$folder/work" "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for at in run tmp var/log etc/systemd/system; do mkdir -p $at; mount -t tmpfs tmpfs $at; done
mount -t tmpfs tmpfs dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/shm dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mkdir -p opt
mount -t tmpfs -o mode=0755 tmpfs opt
mkdir -p opt/adaptd/bin opt/adaptd/python opt/adaptd/src opt/adaptd/plugins opt/adaptd/lib/$python/site-packages
mount --rbind "$base" opt/adaptd/python
mount --rbind "$packages" opt/adaptd/lib/$python/site-packages
mount --rbind "$checkout" opt/adaptd/src
ln -s ../python/bin/$python opt/adaptd/bin/$python
printf "home = /opt/adaptd/python/bin\\n" > opt/adaptd/pyvenv.cfg
printf "#!/opt/adaptd/bin/$python\\nfrom adaptd.cli import main\\nmain()\\n" > opt/adaptd/bin/adaptd
chmod 755 opt/adaptd/bin/adaptd
printf "[Unit]\\nRequires=basic.target\\nAfter=basic.target\\n" > etc/systemd/system/machine.target
pivot_root . mnt
cd /
umount -l /mnt
mount --make-rshared /
exec env -i container=adaptd-test SYSTEMD_GENERATOR_PATH=/nonexistent PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=machine.target
' boot "$folder" "$base" "$packages" "$checkout" "$python"
"""


def cannot() -> str:
    """Say why no systemd can be booted here; nothing when one can."""
    if os.geteuid():
        return "booting a systemd wants root"
    for what, there in (("systemd", SYSTEMD.exists()), ("unshare", shutil.which("unshare")), ("cgroup v2", _cgroups())):
        if not there:
            return f"there is no {what}"
    return ""


def _cgroups() -> Path | None:
    """Return this process's folder in the cgroup2 hierarchy."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    mount = next((words[1] for words in mounts if words[2] == "cgroup2"), None)
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), None)
    return Path(mount + own) if mount and own else None


class Machine:
    """The machine, and the commands that run on it. As a context it is always taken down."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="adaptd-machine-"))
        cgroups = _cgroups()
        assert cgroups is not None
        self._cgroup = cgroups / f"adaptd-test-{os.getpid()}"
        self._said = self.folder.with_name(self.folder.name + ".said")

    def __enter__(self) -> Machine:
        self._cgroup.mkdir()
        words = ["bash", "-c", BOOT, "boot", str(self.folder), sys.base_prefix, sysconfig.get_paths()["purelib"],
                 str(CHECKOUT), VERSION, str(self._cgroup)]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
        try:
            until(self._booted, f"a systemd\n{self._said.read_text()}", BOOT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _booted(self) -> bool:
        assert self._process.poll() is None, f"it did not boot: {self._said.read_text()}"
        children = psutil.Process(self._process.pid).children()
        if not children or children[0].name() != "systemd":
            return False
        self._init = children[0].pid
        return self.run("systemctl", "is-active", "basic.target", expect=None).returncode == 0

    def __exit__(self, *_: object) -> None:
        for child in psutil.Process(self._process.pid).children() if self._process.poll() is None else ():
            child.kill()  # PID 1 takes all of its namespace along
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(BOOT_S)
        folders = sorted((path for path in self._cgroup.rglob("*") if path.is_dir()), reverse=True)
        for path in [*folders, self._cgroup]:
            until(lambda path=path: _gone(path), f"{path} is empty", BOOT_S)  # type: ignore[misc]
        shutil.rmtree(self.folder, ignore_errors=True)
        self._said.unlink(missing_ok=True)

    # -- on the machine ----------------------------------------------------------------------------------------

    def run(self, *words: str, expect: int | None = 0, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command as root."""
        enter = ["nsenter", "-t", str(self._init), "-m", "-p", "-u", "-i", "-n", "--", "env", "-i",
                 "PATH=/opt/adaptd/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH=/opt/adaptd/python/lib",
                 "PYTHONPATH=/opt/adaptd/src:/opt/adaptd/plugins", "PYTHONDONTWRITEBYTECODE=1", "LC_ALL=C.UTF-8", *words]
        done = subprocess.run(enter, capture_output=True, text=True, timeout=COMMAND_S, input=given)
        assert expect is None or done.returncode == expect, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")"; cat > "$1"', "write", path, given=text)

    def show(self, name: str) -> str:
        """Return a property of the service."""
        return self.run("systemctl", "show", "-P", name, "adaptd").stdout.strip()

    def entries(self, *match: str) -> Sequence[dict[str, Any]]:
        """Return entries of the journal."""
        said = self.run("journalctl", "--no-pager", "-o", "json", "-u", "adaptd", *match).stdout
        return [json.loads(line) for line in said.splitlines()]


def _gone(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        time.sleep(0.02)
        return False
    return True
