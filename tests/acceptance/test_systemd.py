"""The unit under a real systemd: started, asked, reloaded, hung, killed, misconfigured and stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon import until
from tests.acceptance.machine import Machine, cannot
from tests.conftest import missing

pytestmark = pytest.mark.acceptance
HASHED = Path(__file__).parents[1] / "forked" / "adaptd_hashed.py"
# The encoder of the crash tests, which costs nothing, and never comes back from one text.
HANGING = """
import threading
import adaptd_hashed
from adaptd_hashed import *

class Hashed(adaptd_hashed.Hashed):
    def encode(self, examples):
        if any(example.text == "hang" for example in examples):
            threading.Event().wait()
        return super().encode(examples)

register_encoders = hookimpl(lambda: [Hashed], specname="register_encoders")
"""
CONFIG = """
state = "/var/lib/adaptd"
[plugins]
allow = ["adaptd-hanging"]
[encoders.default]
kind = "hashed"
[learn]
features = 256
[adapt]
every_labels = 0
min_labels = 150
[limits]
free_mb = 0
[feeds.hook]
kind = "webhook"
domain = "text"
options = { signature = "github", secret = { "$file" = "/run/credentials/adaptd.service/adaptd_hook" } }
"""
# What a test cannot wait for, and where the interpreter of this environment lies; nothing that protects.
DROP_IN = """
[Unit]
StartLimitIntervalSec=0
[Service]
Environment=LD_LIBRARY_PATH=/opt/adaptd/python/lib PYTHONPATH=/opt/adaptd/src:/opt/adaptd/plugins
WatchdogSec=2
RestartSec=100ms
"""
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
SOCKET = "/var/lib/adaptd/adaptd.sock"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """Boot a machine on which adaptd is an installed service that runs."""
    if why := cannot():
        missing(f"a systemd to boot ({why})")
    with Machine() as made:
        about = "/opt/adaptd/plugins/adaptd_hanging-1.0.dist-info"
        made.write("/opt/adaptd/plugins/adaptd_hashed.py", HASHED.read_text())
        made.write("/opt/adaptd/plugins/adaptd_hanging.py", HANGING)
        made.write(f"{about}/METADATA", "Metadata-Version: 2.1\nName: adaptd-hanging\nVersion: 1.0\n")
        made.write(f"{about}/entry_points.txt", "[adaptd.learner]\nhanging = adaptd_hanging\n")
        made.write("/etc/adaptd/adaptd.toml", CONFIG)
        made.run("adaptd", "install-service")
        made.write("/etc/adaptd/credentials/hook", SECRET)
        made.write("/etc/systemd/system/adaptd.service.d/test.conf", DROP_IN)
        made.run("systemctl", "daemon-reload")
        started = made.run("systemctl", "start", "adaptd", expect=None)
        assert started.returncode == 0, made.run("journalctl", "--no-pager", "-u", "adaptd").stdout
        yield made


def ask(machine: Machine, path: str, body: object = None, limit_s: float = 30.0) -> str:
    given = [] if body is None else ["--json", json.dumps(body)]
    return machine.run("curl", "-s", "-m", str(limit_s), "--unix-socket", SOCKET, f"http://x{path}", *given, expect=None).stdout


def pid(machine: Machine) -> int:
    return int(machine.show("MainPID"))


def restarted(machine: Machine, old: int) -> None:
    """Wait until another process is ready."""
    until(lambda: machine.show("ActiveState") == "active" and pid(machine) not in (0, old), "it runs again", 60.0, every_s=0.2)


def test_a_start_returns_when_the_daemon_answers_and_its_process_may_do_little(machine: Machine) -> None:
    assert (machine.show("ActiveState"), machine.show("SubState"), machine.show("NRestarts")) == ("active", "running", "0")
    assert machine.show("StatusText") == "serving text"
    assert ask(machine, "/readyz") and json.loads(ask(machine, "/v1/status"))["state"] == "running"
    status = machine.run("cat", f"/proc/{pid(machine)}/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] != "0" and fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    root = f"/proc/{pid(machine)}/root"  # as it sees the machine
    for place in ("etc/adaptd", "usr/bin", "opt/adaptd/bin"):
        assert "Read-only" in machine.run("touch", f"{root}/{place}/x", expect=1).stderr
    assert machine.run("ls", "-A", f"{root}/root", f"{root}/home").stdout.split() == [f"{root}/home:", f"{root}/root:"]
    mounts = [line.split()[4:6] for line in machine.run("cat", f"/proc/{pid(machine)}/mountinfo").stdout.splitlines()]
    writable = {where: options for where, options in mounts if "rw" in options.split(",")}  # of a place's mounts the last
    assert "/var/lib/adaptd" in writable
    devices = {"/dev/pts", "/dev/mqueue", "/dev/hugepages"}
    assert {where for where, options in writable.items() if "noexec" not in options} <= devices
    assert machine.run("stat", "-c", "%U:%G %a", "/var/lib/adaptd").stdout == "adaptd:adaptd 750\n"


def test_the_secret_of_a_feed_is_a_credential(machine: Machine) -> None:
    assert machine.run("stat", "-c", "%U %a", "/etc/adaptd/credentials").stdout == "root 700\n"
    assert json.loads(ask(machine, "/v1/status"))["feeds"]["hook"]["state"] == "running"  # it was read: the feed was built
    assert SECRET not in machine.run("systemctl", "show", "adaptd").stdout


def test_the_journal_has_the_daemons_words_with_their_fields(machine: Machine) -> None:
    ready = machine.entries("ADAPTD_ACTION=ready")[-1]
    assert ready["MESSAGE"].startswith("ready after") and ready["PRIORITY"] == "6"
    assert (ready["SYSLOG_IDENTIFIER"], ready["LOGGER"]) == ("adaptd", "adaptd.daemon")


def test_a_reload_says_what_changed_and_what_waits_for_a_restart(machine: Machine) -> None:
    before = pid(machine)
    machine.write("/etc/adaptd/adaptd.toml", CONFIG.replace("min_labels = 150", "min_labels = 30").replace("= 256", "= 512"))
    machine.run("systemctl", "reload", "adaptd")
    told = until(lambda: machine.entries("ADAPTD_ACTION=reload"), "it was told")[-1]["MESSAGE"]
    assert "now in force: domains.text.adapt.min_labels" in told
    assert "a restart is needed for: domains.text.learn.features" in told
    assert pid(machine) == before and machine.show("ActiveState") == "active"
    machine.write("/etc/adaptd/adaptd.toml", CONFIG)


def test_a_hung_inference_loop_is_named_and_the_daemon_restarted_by_the_watchdog(machine: Machine) -> None:
    taught = [{"id": f"e{i}", "text": f"rain {i}", "label": "weather"} for i in range(5)]
    assert json.loads(ask(machine, "/v1/text/events", taught))["accepted"] == 5
    before, began = pid(machine), time.monotonic()
    assert ask(machine, "/v1/text/predict", {"inputs": [{"text": "hang"}]}, limit_s=1.0) == ""  # no answer
    restarted(machine, before)
    print(f"hung to serving again: {time.monotonic() - began:.0f} s")
    named = machine.entries("ADAPTD_ACTION=stalled")
    assert named[-1]["MESSAGE"].startswith("stalled: no sign of life from: inference")  # and of who waits for it
    assert "adaptd_hanging.py" in "".join(str(one["MESSAGE"]) for one in machine.entries())  # where it hung
    assert machine.show("NRestarts") == "1"
    assert "Watchdog timeout" in machine.run("journalctl", "-u", "adaptd", "-o", "cat").stdout
    assert json.loads(ask(machine, "/v1/status"))["domains"]["text"]["labelled"] == 5  # nothing that was taken is lost


def test_a_killed_daemon_is_started_again(machine: Machine) -> None:
    before = pid(machine)
    machine.run("kill", "-9", str(before))
    restarted(machine, before)
    assert json.loads(ask(machine, "/v1/status"))["domains"]["text"]["labelled"] == 5


def test_a_stopped_process_that_goes_on_in_time_is_not_restarted(machine: Machine) -> None:
    before, stalled = pid(machine), len(machine.entries("ADAPTD_ACTION=stalled"))
    machine.run("sh", "-c", f"kill -STOP {before}; sleep 1; kill -CONT {before}")  # half of systemd's own limit
    assert json.loads(ask(machine, "/v1/status"))["state"] == "running" and pid(machine) == before
    assert len(machine.entries("ADAPTD_ACTION=stalled")) == stalled


def test_it_stops_in_time_and_a_wrong_configuration_is_not_tried_again(machine: Machine) -> None:
    began = time.monotonic()
    machine.run("systemctl", "stop", "adaptd")
    assert time.monotonic() - began < 30.0 and machine.show("Result") == "success"
    assert machine.entries("ADAPTD_ACTION=stopped")
    machine.write("/etc/adaptd/adaptd.toml", CONFIG + "\n[bogus]\n")
    restarts = machine.show("NRestarts")
    assert machine.run("systemctl", "start", "adaptd", expect=None).returncode
    until(lambda: machine.show("ActiveState") == "failed", "it is given up", 20.0)
    assert (machine.show("ExecMainStatus"), machine.show("NRestarts")) == ("78", restarts)
    assert "bogus" in machine.run("journalctl", "-u", "adaptd", "-o", "cat").stdout
