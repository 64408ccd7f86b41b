"""A file system in a file, whose power can be cut: what was not synced is gone, as after a power cut.

FAULTS appendix A: a loop mount and FS_IOC_SHUTDOWN without a flush of the log. kill -9 cannot show a missing fsync, the
page cache outlives the process; this can.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.daemon import until
from tests.conftest import missing

SHUTDOWN, WITHOUT_FLUSH = 0x8004587D, 2
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}


class Rig:
    """A mounted file system; `root` is its folder."""

    def __init__(self, folder: Path, kind: str, mebibytes: int) -> None:
        self.root = folder / "mnt"
        self.root.mkdir()
        self._image = folder / "image"
        with self._image.open("wb") as file:
            file.truncate(mebibytes << 20)
        run(*MAKE[kind], str(self._image))
        self.mount()

    def mount(self) -> None:
        """Mount it: the file system replays its own journal."""
        run("mount", "-o", "loop", str(self._image), str(self.root))

    def unmount(self) -> None:
        """Unmount it, as soon as nobody has a file of it open."""
        until(lambda: run("umount", str(self.root), check=False), "nobody is on the file system")

    def remount(self, options: str) -> None:
        """Change how it is mounted."""
        run("mount", "-o", f"remount,{options}", str(self.root))

    def fail(self) -> None:
        """Let ext4 meet an error, upon which it takes no more writes."""
        self.remount("errors=remount-ro")
        device = subprocess.run(["findmnt", "-no", "SOURCE", str(self.root)], capture_output=True, text=True, check=True).stdout
        Path("/sys/fs/ext4", Path(device.strip()).name, "trigger_fs_error").write_text("a test")

    def sync(self) -> None:
        """Bring everything that was written so far to the disk."""
        run("sync", "--file-system", str(self.root))

    def cut(self) -> None:
        """Cut the power. Whoever runs on it is to be killed next, then `unmount` and `mount`."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
        finally:
            os.close(descriptor)


def run(*words: str, check: bool = True) -> bool:
    """Run a command of the system; say whether it went well."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{words}: {done.stderr}"
    return done.returncode == 0


@contextmanager
def rig(kind: str = "ext4", mebibytes: int = 96) -> Iterator[Rig]:
    """Return a rig; skip where none can be had."""
    if shutil.which(MAKE[kind][0]) is None:
        missing(MAKE[kind][0])
    if os.geteuid() or not run("losetup", "--find", check=False):  # a right of the machine's, like a GPU: CI may lack it
        pytest.skip("no loop device may be made here")
    folder = Path(tempfile.mkdtemp(prefix="rig-"))
    made = Rig(folder, kind, mebibytes)
    try:
        yield made
    finally:
        run("umount", "--lazy", str(made.root), check=False)
        shutil.rmtree(folder, ignore_errors=True)
