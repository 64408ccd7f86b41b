"""The command line: help, exit codes, what goes to which stream; the daemon is a small HTTP server on a unix socket."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from adaptd import config, errors, offline, plugins
from adaptd.cli import COMMANDS, main
from adaptd.cli.show import plain
from adaptd.client import Client
from adaptd.newstore import TEMPLATE
from adaptd.wire import rebuilt
from tests.unit.socketdouble import Reply, SocketDouble

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
Adaptd = Callable[..., Result]
STATUS = {"state": "running", "pid": 7, "uptime_s": 3700.0, "seq": 12, "listening": ["http://127.0.0.1:8411"],
          "domains": {"text": {"version": 3, "parent": 2, "promoted_at": 1_777_888_800.0, "labels": 4, "events": 12,
                               "labelled": 9, "memory": 9, "accuracy": {"prequential": 0.9, "holdout": None},
                               "forgetting": 0.0, "drift": {"detected": 2}, "held": ["", "crm"],
                               "adapting": {"stage": "training", "progress": 0.5}, "last_verdict": None,
                               "learn_lag": 0,
                               "probation": {"compared": 120, "labels": 1000, "e_value": 0.4321},
                               "incumbent": {"compared": 300, "accuracy": {"adaptd": 0.91, "incumbent": 0.87}, "better": 20,
                                             "worse": 8, "difference": 0.04, "interval": [0.0061, 0.0754],
                                             "switched_at": None}}},
          "feeds": {"crm": {"state": "running", "offset": "9", "lag": 0, "errors": 0}},
          "outputs": {"bus": {"state": "failing", "offset": {"predictions": 7}, "lag": 3, "errors": 1, "sent": 4711}},
          "problems": [{"code": "low_disk", "message": "[bold]disk\x1b[31m", "since": 1.0, "hint": "make room"}]}


class FakeDaemon(SocketDouble):
    """Answers on a store's socket as told; keeps what it was asked."""

    def __init__(self, socket: Path) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[str, Callable[[Any], Answer]] = {}
        super().__init__(socket, self._answer)

    def _answer(self, method: str, path: str, body: Any) -> Reply:
        self.asked.append((method, path, body))
        status, document, *headers = self.answers[path](body)
        return status, document, headers[0] if headers else {}

    def on(self, path: str, *answer: Any) -> None:
        """Answer a path always so."""
        self.answers[path] = lambda body: answer  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ADAPTD_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "s"
    made.mkdir()
    (made / "adaptd.toml").write_text("")
    return made


@pytest.fixture
def daemon(folder: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(folder / "adaptd.sock")
    yield made
    made.close()


@pytest.fixture
def adaptd(folder: Path) -> Adaptd:
    def run(*args: str, **options: Any) -> Result:
        return CliRunner().invoke(main, ["--config", str(folder), *args], **options)

    return run


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = [pytest.param(path, command, id=" ".join(path)) for path, command in commands()]


@pytest.mark.parametrize(("path", "command"), ALL)
def test_every_command_has_help_with_an_example_and_takes_config(path: tuple[str, ...], command: click.Command) -> None:
    result = CliRunner().invoke(main, [*path, "-h"])
    assert result.exit_code == 0
    assert f"Example:\n    adaptd {path[0]}" in result.stdout
    assert path in {("init",), ("demo",), ("bench",), ("install-service",)} or "--config PATH" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_short_helps_is_true(name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert command.name == name
    assert COMMANDS[name][1].rstrip(".") == command.get_short_help_str(limit=200).rstrip(".")


def test_a_mistyped_command_is_a_usage_error_with_the_nearest_name() -> None:
    result = CliRunner().invoke(main, ["statsu"])
    assert result.exit_code == 2
    assert "Did you mean 'status'?" in result.stderr


# -- errors ---------------------------------------------------------------------------------------------------


ERRORS = [(404, "not_found", errors.NotFound, 1), (409, "refused", errors.Refused, 4),
          (500, "error", errors.AdaptdError, 1), (503, "not_ready", errors.NotReady, 1), (429, "busy", errors.Busy, 1),
          (422, "of_tomorrow", errors.AdaptdError, 1), (500, "missing_extra", errors.AdaptdError, 1)]


@pytest.mark.parametrize(("status", "code", "kind", "exit_code"), ERRORS)
def test_an_error_of_the_daemon_keeps_its_class_and_gets_its_exit_code(
        adaptd: Adaptd, daemon: FakeDaemon, status: int, code: str, kind: type[errors.AdaptdError],
        exit_code: int) -> None:
    body = {"error": {"code": code, "message": "no such thing", "hint": "try another", "field": "to"}}
    daemon.on("/v1/text/snapshot", status, body, {"Retry-After": "7"})
    result = adaptd("snapshot")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr == "error: no such thing\nhint: try another\n"
    error = rebuilt(status, body, "7")
    assert type(error) is kind
    assert isinstance(error, errors.Busy) or error.field == "to"
    assert not isinstance(error, errors.Busy) or error.retry_after_s == 7.0


def test_without_a_daemon_a_command_that_needs_one_exits_3(adaptd: Adaptd, folder: Path) -> None:
    result = adaptd("predict", "hello")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "adaptd run" in result.stderr
    (folder / "adaptd.sock").touch()  # a stale file is nobody either
    with pytest.raises(errors.AdaptdError):
        Client(folder / "adaptd.sock").call("GET", "/v1/status")


def test_an_answer_that_is_no_json_is_told(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    daemon.on("/v1/feeds", 200, b"<html>")
    result = adaptd("feeds")
    assert result.exit_code == 1
    assert "without JSON" in result.stderr


def test_a_daemon_that_does_not_answer_in_time_is_told(daemon: FakeDaemon, folder: Path) -> None:
    gate = threading.Event()
    daemon.answers["/v1/status"] = lambda body: (200, {}) if gate.wait(5) else (500, {})
    with pytest.raises(errors.AdaptdError, match="within 0.05 s"):
        Client(folder / "adaptd.sock").call("GET", "/v1/status", timeout_s=0.05)
    gate.set()


def test_verbose_shows_the_traceback(folder: Path) -> None:
    result = CliRunner().invoke(main, ["-v", "--config", str(folder), "feeds"])
    assert result.exit_code == 3
    assert "Traceback" in result.stderr and "NotRunning" in result.stderr


def test_an_interruption_exits_130(adaptd: Adaptd, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "call", interrupted)
    assert adaptd("feeds").exit_code == 130


def test_a_closed_pipe_is_silent(folder: Path) -> None:
    command = [sys.executable, "-m", "adaptd", "config", "--config", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 1


# -- init -----------------------------------------------------------------------------------------------------


def made(tmp_path: Path, *args: str) -> tuple[Result, Path]:
    folder = tmp_path / "new"
    return CliRunner().invoke(main, ["init", str(folder), *args]), folder


def test_init_makes_a_private_folder_with_a_valid_configuration(tmp_path: Path) -> None:
    result, folder = made(tmp_path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{folder / 'adaptd.toml'}\n"
    assert f"adaptd run --config {folder}" in result.stderr
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert len(bytes.fromhex((folder / "token").read_text())) == 32
    assert sorted(p.name for p in folder.iterdir()) == ["adaptd.toml", "token"]


def test_what_init_writes_is_the_defaults(tmp_path: Path, folder: Path) -> None:
    _, new = made(tmp_path)
    settings, paths = config.load(new)
    defaults, _ = config.load(folder)
    assert settings.model_dump(exclude={"domain"}) == defaults.model_dump(exclude={"domain"})
    assert paths.socket == new / "adaptd.sock"


def test_what_init_shows_in_comments_is_the_defaults(tmp_path: Path, folder: Path) -> None:
    text = TEMPLATE.split("# Follow a file")[0].format(domain="text", allow="", table="[domains.text]", state=".")
    lines = [line.removeprefix("# ") if " = " in line else line for line in text.splitlines()]
    (tmp_path / "shown.toml").write_text("\n".join(lines))
    shown, _ = config.load(tmp_path / "shown.toml")
    defaults, _ = config.load(folder)
    assert shown.model_dump(exclude={"domain"}) == defaults.model_dump(exclude={"domain"})


def test_init_gives_a_new_name_the_generic_domain(tmp_path: Path) -> None:
    result, folder = made(tmp_path, "--domain", "tickets")
    assert result.exit_code == 0
    settings, _ = config.load(folder)
    assert (settings.domain, settings.domains["tickets"].kind, settings.plugins.allow) == ("tickets", "text", [])


def test_init_allows_and_uses_an_installed_plugin_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Distribution:
        name = "adaptd-shop"

    entry = EntryPoint(name="shop", value="adaptd_shop", group="adaptd")
    vars(entry).update(dist=Distribution())
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == "adaptd" else [])
    result, folder = made(tmp_path, "--domain", "shop")
    assert "adaptd-shop" in result.stderr
    settings, _ = config.load(folder)
    assert (settings.domains["shop"].kind, settings.plugins.allow) == (None, ["adaptd-shop"])


@pytest.mark.parametrize("name", ["Bad", "", "9a", "a b", "a" * 64, "a\nb", '"'])
def test_init_refuses_a_name_that_cannot_be_a_domain(tmp_path: Path, name: str) -> None:
    result, folder = made(tmp_path, "--domain", name)
    assert result.exit_code == 2
    assert not folder.exists()


def test_init_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    first, folder = made(tmp_path)
    again, _ = made(tmp_path)
    assert (first.exit_code, again.exit_code) == (0, 1)
    assert "not empty" in again.stderr and "hint:" in again.stderr
    result = CliRunner().invoke(main, ["init", str(folder / "token")])
    assert result.exit_code == 1 and "not a folder" in result.stderr


def test_init_refuses_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["init", str(tmp_path / ("x" * 100))])
    assert result.exit_code == 1
    assert "too long" in result.stderr


# -- status and history ---------------------------------------------------------------------------------------


def test_status_prints_the_document_of_the_daemon(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    daemon.on("/v1/status", 200, STATUS)
    result = adaptd("status", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == STATUS


def test_status_for_people_shows_everything_and_no_control_characters(adaptd: Adaptd,
                                                                      daemon: FakeDaemon) -> None:
    daemon.on("/v1/status", 200, STATUS)
    result = adaptd("status", env={"COLUMNS": "300"})
    assert result.exit_code == 0
    for word in ("running", "pid 7", "up 1 h 1 min", "text", "90.0%", "adapting: training 50%", "crm", "low_disk",
                 "make room", "[bold]disk", "learning on hold (crm)", "drift seen 2 times",
                 "on probation: 120 of 1000 labels, e-value 0.432", "91.0%", "87.0%", "+4.0%", "+0.6% to +7.5%"):
        assert word in result.stdout
    assert "\x1b" not in result.stdout


def test_status_and_history_of_a_stopped_store_exit_3(adaptd: Adaptd, folder: Path, stopped: Path) -> None:
    status, history = adaptd("status", "--json"), adaptd("history", "--json")
    assert (status.exit_code, history.exit_code) == (3, 3)
    assert json.loads(status.stdout)["state"] == json.loads(history.stdout)["state"] == "stopped"
    assert "not running" in status.stderr
    assert adaptd("status").exit_code == adaptd("history", "--domain", "text").exit_code == 3


@pytest.fixture
def stopped(folder: Path) -> Path:
    from adaptd import db, registry

    engine = db.writing_engine(folder / "adaptd.db")
    db.upgrade(engine)
    with engine.begin() as connection:
        registry.create_domain(connection, "text", "encoder", "config")
    engine.dispose()
    return folder


def test_a_store_that_never_ran_exits_3_with_a_hint(adaptd: Adaptd) -> None:
    result = adaptd("status")
    assert result.exit_code == 3
    assert "never run" in result.stderr and "adaptd run" in result.stderr


def test_history_passes_domain_and_limit(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    action = {"at": 1.0, "domain": "text", "what": "rollback", "before": 2, "after": 1, "actor": "me", "reason": "why"}
    daemon.on("/v1/history?domain=text&limit=3", 200, {"actions": [action]})
    result = adaptd("history", "--domain", "text", "--limit", "3", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "rollback" in result.stdout and "why" in result.stdout


# -- domains --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "domain"), [
    ("", "text"), ("[domains.a]", "a"), ("domain = 'b'\n[domains.a]\n[domains.b]", "b")])
def test_the_domain_is_found(adaptd: Adaptd, daemon: FakeDaemon, folder: Path, text: str, domain: str) -> None:
    (folder / "adaptd.toml").write_text(text)
    daemon.on(f"/v1/{domain}/snapshot", 200, {"version": 5})
    result = adaptd("snapshot")
    assert (result.exit_code, result.stdout) == (0, "version 5\n")


def test_several_domains_and_no_default_is_a_usage_error_that_lists_them(adaptd: Adaptd, folder: Path) -> None:
    (folder / "adaptd.toml").write_text("[domains.a]\n[domains.b]")
    result = adaptd("snapshot")
    assert result.exit_code == 2
    assert "a, b" in result.stderr and "--domain" in result.stderr


# -- versions -------------------------------------------------------------------------------------------------


def test_rollback_asks_the_daemon(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    daemon.on("/v1/text/rollback", 200, {"version": 7, "saved": 13})
    result = adaptd("rollback", "--to", "7", "--reason", "poison", "--json")
    assert json.loads(result.stdout) == {"version": 7, "saved": 13}
    assert daemon.asked == [("POST", "/v1/text/rollback", {"to": 7, "reason": "poison"})]
    assert "adaptd resume" in result.stderr


def test_rollback_works_on_a_stopped_store(adaptd: Adaptd, stopped: Path) -> None:
    result = adaptd("rollback", "--to", "1", "--reason", "poison", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"version": 1, "saved": 2}
    newest = json.loads(adaptd("history", "--json").stdout)["actions"][0]
    assert (newest["what"], newest["reason"]) == ("rollback", "poison")
    assert newest["actor"].startswith("cli:")


def test_rollback_to_an_unknown_version_or_from_the_first_exits_1(adaptd: Adaptd, stopped: Path) -> None:
    assert adaptd("rollback", "--to", "9").exit_code == 1
    assert "nothing to roll back to" in adaptd("rollback").stderr
    assert adaptd("rollback", "--to", "-1").exit_code == 2


@pytest.mark.parametrize(("at", "sent"), [("2026-05-04T14:05:00Z", "2026-05-04T14:05:00Z"), ("1777903500.5", 1777903500.5)])
def test_rollback_to_a_moment_asks_the_daemon(adaptd: Adaptd, daemon: FakeDaemon, at: str, sent: str | float) -> None:
    daemon.on("/v1/text/rollback", 200, {"version": 7, "saved": 13})
    assert adaptd("rollback", "--at", at).exit_code == 0
    assert daemon.asked == [("POST", "/v1/text/rollback", {"at": sent, "reason": ""})]


@pytest.mark.parametrize(("words", "said"), [
    ("--to 7 --at 2026-05-04T14:05:00Z", "both"), ("--at 2026-05-04T14:05:00", "no zone"), ("--at yesterday", "seconds since"),
    ("--at nan", "moment"), ("--except-source a", "--and-replay")])
def test_a_way_back_that_cannot_be_meant_is_a_usage_error(adaptd: Adaptd, daemon: FakeDaemon, words: str, said: str) -> None:
    result = adaptd("rollback", *words.split())
    assert result.exit_code == 2 and said in result.stderr and daemon.asked == []


def test_a_moment_without_events_on_a_stopped_store_exits_1_and_changes_nothing(adaptd: Adaptd, stopped: Path) -> None:
    result = adaptd("rollback", "--at", "2026-05-04T14:05:00Z")
    assert result.exit_code == 1 and "no event has come yet" in result.stderr and "--to" in result.stderr
    assert json.loads(adaptd("status", "--json").stdout)["domains"]["text"]["held"] == []


def test_a_stopped_store_shows_its_versions_and_exits_3(adaptd: Adaptd, stopped: Path) -> None:
    shown, words = adaptd("show", "1", "--json"), adaptd("show", "1")
    assert (shown.exit_code, words.exit_code) == (3, 3) and "a fresh store" in words.stdout
    document = json.loads(shown.stdout)
    assert (document["state"], document["kind"], document["live"], document["memory"]) == ("stopped", "initial", True, 0)
    assert [one["what"] for one in document["history"]] == ["created"]
    differ = adaptd("diff", "1", "1", "--json")
    assert differ.exit_code == 3 and json.loads(differ.stdout)["rows"] == {"added": {}, "removed": {}, "kept": 0}
    assert "0 rows are in both" in adaptd("diff", "1", "1").stdout
    assert adaptd("show", "9").exit_code == adaptd("diff", "1", "9").exit_code == 1
    assert adaptd("show", "x").exit_code == 2


def test_a_replay_needs_the_daemon(adaptd: Adaptd, stopped: Path) -> None:
    for words in (("rollback", "--to", "1", "--and-replay"), ("replay", "--since", "1")):
        result = adaptd(*words)
        assert result.exit_code == 3 and "adaptd" in result.stderr
    assert json.loads(adaptd("status", "--json").stdout)["domains"]["text"]["held"] == []


@pytest.mark.parametrize(("since", "sent"), [("17", 17), ("1777903500.0", 1777903500.0), ("2026-05-04T14:05:00Z",) * 2])
def test_replay_asks_the_daemon(adaptd: Adaptd, daemon: FakeDaemon, since: str, sent: str | float) -> None:
    daemon.on("/v1/text/replay", 200, {"relearned": 3, "skipped": 2})
    result = adaptd("replay", "--since", since, "--except-source", "a", "--except-source", "b", "--except-event", "e")
    assert (result.exit_code, result.stdout) == (0, "3 labels are learned again; 2 stayed out\n")
    body = {"since": sent, "except_sources": ["a", "b"], "except_events": ["e"], "reason": ""}
    assert daemon.asked == [("POST", "/v1/text/replay", body)]
    assert adaptd("replay").exit_code == adaptd("replay", "--since", "today").exit_code == 2


@pytest.mark.parametrize(("verdict", "code"), [("promote", 0), ("reject", 4), ("undecided", 0)])
def test_adapt_waits_for_the_verdict(adaptd: Adaptd, daemon: FakeDaemon, verdict: str, code: int) -> None:
    daemon.on("/v1/text/adapt", 200, {"verdict": verdict, "version": 4, "reasons": ["1.2 points better"]})
    result = adaptd("adapt", "--wait")
    assert (result.exit_code, result.stdout) == (code, f"{verdict}: version 4\n")
    assert "1.2 points better" in result.stderr
    assert ("champion stays" in result.stderr) is (verdict == "undecided")
    assert daemon.asked[0][2] == {"wait": True}


def test_promote_needs_a_reason(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    daemon.on("/v1/text/promote", 200, {"version": 9})
    assert adaptd("promote", "9", "--force").exit_code == 2
    assert adaptd("promote", "9", "--force", "--reason", "known").exit_code == 0
    assert daemon.asked == [("POST", "/v1/text/promote", {"to": 9, "force": True, "reason": "known"})]


@pytest.mark.parametrize(("words", "back", "said"), [((), False, "clients use version 9"),
                                                     (("--back",), True, "clients use the incumbent again")])
def test_a_switch_is_told_to_the_daemon(adaptd: Adaptd, daemon: FakeDaemon, words: tuple[str, ...], back: bool,
                                        said: str) -> None:
    daemon.on("/v1/text/switch", 200, {"version": 9, "incumbent": None})
    result = adaptd("switch", *words, "--reason", "better")
    assert (result.exit_code, result.stdout) == (0, said + "\n")
    assert daemon.asked == [("POST", "/v1/text/switch", {"back": back, "reason": "better"})]


def test_versions_are_listed(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    version = {"version": 2, "live": True, "kind": "candidate", "parent": 1, "seq": 5, "created": 1.0,
               "verdict": {"decision": "reject"}, "actor": "schedule", "reason": "1000 labels"}
    daemon.on("/v1/text/versions", 200, {"versions": [version]})
    result = adaptd("versions", env={"COLUMNS": "200"})
    assert "live" in result.stdout and "reject" in result.stdout and "1000 labels" in result.stdout


# -- stream ---------------------------------------------------------------------------------------------------


def test_predict_sends_texts_and_shows_evidence(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    evidence = [{"event": "1-a", "label": "lost", "weight": 0.5, "similarity": 0.9, "source": "crm", "text": "lost it"}]
    answer = {"event": "2-b", "label": "[/lost]", "confidence": 0.93, "scores": {}, "cost": {}, "evidence": evidence}
    daemon.on("/v1/text/predict", 200, {"version": 1, "seq": 1, "predictions": [answer]})
    result = adaptd("predict", "where is my card?", "--explain", env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.stderr
    assert daemon.asked[0][2] == {"inputs": [{"text": "where is my card?", "source": "cli"}], "explain": True}
    for word in ("[/lost]", "93.0%", "2-b", "lost it", "crm"):
        assert word in result.stdout


def test_feedback_names_the_event_or_source_and_id(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    daemon.on("/v1/text/feedback", 202, {"accepted": 1, "duplicates": 0, "held": 0, "rejected": []})
    assert adaptd("feedback", "2-b", "lost").stdout == "learned\n"
    assert adaptd("feedback", "--source", "crm", "17", "lost").exit_code == 0
    assert [body for _, _, body in daemon.asked] == [{"event": "2-b", "label": "lost"},
                                                     {"source": "crm", "id": "17", "label": "lost"}]


@pytest.mark.parametrize(("args", "sent"), [
    (["hold"], [("hold", "learning", "")]),
    (["hold", "--adaptation"], [("hold", "adaptation", "")]),
    (["hold", "--source", "crm"], [("hold", "learning", "crm")]),
    (["resume"], [("resume", "learning", ""), ("resume", "adaptation", "")]),
    (["resume", "--learning"], [("resume", "learning", "")]),
    (["resume", "--source", "crm"], [("resume", "learning", "crm")]),
])
def test_hold_and_resume_say_what(adaptd: Adaptd, daemon: FakeDaemon, args: list[str],
                                  sent: list[tuple[str, str, str]]) -> None:
    daemon.on("/v1/text/hold", 200, {})
    daemon.on("/v1/text/resume", 200, {"learned": 3})
    result = adaptd(*args, "--reason", "why")
    assert result.exit_code == 0
    assert daemon.asked == [("POST", f"/v1/text/{verb}", {"what": what, "source": source, "reason": "why"})
                            for verb, what, source in sent]
    assert ("3 labels" in result.stdout) is (args[0] == "resume")


def test_what_waited_of_a_source_is_dropped_on_demand(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    daemon.on("/v1/text/resume", 200, {"learned": 0, "dropped": 7})
    assert "7 labels that waited are dropped" in adaptd("resume", "--source", "crm", "--drop").stdout
    assert daemon.asked[-1][2] == {"what": "learning", "source": "crm", "reason": "", "drop": True}
    assert adaptd("resume", "--drop").exit_code == 2


def test_a_counterfactual_is_shown_in_words(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    record = {"event": "1-a", "label": "lost", "source": "agent", "similarity": 0.9, "payload": {"text": "lost it"}}
    found = {"answer": "lost", "becomes": "found", "words": "this record, taught by agent, flips it", "records": [record],
             "sources": [{"source": "crm", "records": 3, "label": "found", "confidence": 0.5, "flips": True},
                         {"source": "big", "records": 30_000}]}
    daemon.on("/v1/text/explain/1-a?counterfactual=true", 200, {
        "event": "1-a", "source": "crm", "payload": {"text": "?"}, "received": 1.0, "live_then": 2, "answers": [], "labels": [],
        "now": {"label": "lost", "confidence": 1.0}, "counterfactual": {"label": found}})
    shown = adaptd("explain", "1-a", "--counterfactual", env={"COLUMNS": "200"}).stdout
    assert all(words in shown for words in ("label: this record, taught by agent", "lost it",
                                            "without all 3 records from crm: found (50.0%)", "30000 records from big: too many"))


def test_adaptation_of_a_source_is_a_usage_error(adaptd: Adaptd) -> None:
    assert adaptd("hold", "--adaptation", "--source", "crm").exit_code == 2


def test_memory_feeds_and_explain_are_passed_on(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    near = {"event": "1-a", "label": "lost", "similarity": 0.9, "text": "lost it"}
    head = {"rows": 9, "labels": {"lost": 9}, "slots": 10}
    daemon.on("/v1/text/memory", 200, {"domain": "text", "heads": {"label": head}})
    daemon.on("/v1/text/memory/search", 200, {"results": [near]})
    daemon.on("/v1/text/explain/1-a", 200, {
        "event": "1-a", "source": "crm", "payload": {"text": "?"}, "received": 1.0, "live_then": 2,
        "now": {"label": "lost", "confidence": 1.0, "evidence": [near],
                "experts": [{"expert": "ridge", "trust": 0.75, "label": "found", "probability": 0.5}]},
        "answers": [{"version": 3, "seq": 7, "labels": {"label": "found"}, "confidence": 0.5, "at": 1.0}],
        "labels": [{"seq": 9, "label": "lost", "source": "agent", "held": False, "at": 2.0}]})
    daemon.on("/v1/feeds", 200, {"feeds": STATUS["feeds"]})
    daemon.on("/v1/feeds/crm/pause", 200, {})
    daemon.on("/v1/outputs", 200, {"outputs": STATUS["outputs"]})
    daemon.on("/v1/outputs/bus/resume", 200, {"state": "running"})
    assert "label: 9 rows, 10 slots" in adaptd("memory").stdout
    assert json.loads(adaptd("memory", "--json").stdout)["heads"] == {"label": head}
    assert "lost it" in adaptd("memory", "search", "card", "-k", "3", env={"COLUMNS": "200"}).stdout
    assert daemon.asked[-1][2] == {"text": "card", "k": 3}
    explained = adaptd("explain", "1-a", env={"COLUMNS": "200"}).stdout
    assert all(word in explained for word in ("found", "agent", "version 2", "now: lost (100.0%)", "lost it", "ridge", "75.0%"))
    assert "crm" in adaptd("feeds").stdout
    assert adaptd("feeds", "pause", "crm").stdout == "crm: paused\n"
    assert "4711" in adaptd("outputs").stdout
    assert json.loads(adaptd("outputs", "list", "--json").stdout)["outputs"]["bus"]["lag"] == 3
    assert adaptd("outputs", "resume", "bus").stdout == "bus: running\n"


def test_dead_letters_are_listed_tried_again_and_dropped(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    reason = json.dumps({"code": "bad_payload", "message": "no text", "hint": "send one", "field": "text"})
    daemon.on("/v1/feeds/crm/dead?after=0&limit=100", 200, {"feed": "crm", "total": 7, "dead": [
        {"id": 3, "at": 1.0, "reason": reason, "raw": '{"txt": 1}'}, {"id": 4, "at": 1.0, "reason": "bare words", "raw": "["}]})
    daemon.on("/v1/feeds/crm/dead/retry", 200, {"taken": 1, "left": [4]})
    daemon.on("/v1/feeds/crm/dead/drop", 200, {"dropped": 7})
    shown = adaptd("feeds", "dead", "list", "crm", env={"COLUMNS": "200"})
    assert all(words in shown.stdout for words in ("3", "no text", '{"txt": 1}', "bare words")) and "7 in all" in shown.stderr
    again = adaptd("feeds", "dead", "retry", "crm", "3", "4")
    assert (again.exit_code, again.stdout, daemon.asked[-1][2]) == (1, "crm: 1 taken, 1 left\n", {"ids": [3, 4]})
    assert adaptd("feeds", "dead", "drop", "crm", "--all").stdout == "crm: 7 dropped\n" and daemon.asked[-1][2] == {"all": True}
    for wrong in ((), ("3", "--all")):
        refused = adaptd("feeds", "dead", "drop", "crm", *wrong)
        assert refused.exit_code == 2 and "name ids, or give --all" in refused.stderr


# -- review ---------------------------------------------------------------------------------------------------


def to_ask(event: str, label: Any, scores: Any) -> dict[str, Any]:
    return {"event": event, "text": f"text of {event}", "payload": {}, "label": label, "scores": scores, "confidence": 0.5,
            "reason": "uncertain between a and b", "expected": 1.0, "like": 0}


def reviewing(daemon: FakeDaemon, *items: dict[str, Any], answer: Answer = (202, {"held": 0})) -> list[Any]:
    """Let the daemon give items until each is answered; return what feedback it gets."""
    got: list[Any] = []

    def feedback(body: Any) -> Answer:
        got.append(body)
        return answer

    def more(count: int) -> Answer:
        return 200, {"items": [one for one in items if one["event"] not in {body["event"] for body in got}][:count]}

    daemon.on("/v1/text/memory", 200, {"heads": {"label": {"labels": {"a": 3, "b": 2}}}})
    daemon.answers.update({f"/v1/text/review?n={n}": lambda body, n=n: more(n) for n in range(1, 20)})  # type: ignore[misc]
    daemon.answers["/v1/text/feedback"] = feedback
    return got


def test_an_answer_is_sent_before_the_next_question(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    got = reviewing(daemon, *(to_ask(f"e{i}", "a", {"a": 0.6, "b": 0.4}) for i in range(4)))
    done = adaptd("review", "--source", "ana", input="\n2\nb\nq\n")
    assert done.exit_code == 0 and [one["label"] for one in got] == ["a", "b", "b"]
    assert {one["teacher"] for one in got} == {"review:ana"} and "text of e3" in done.stderr
    assert done.stdout.startswith("3 labels by review:ana, 2 of them not as guessed")


def test_a_label_of_several_heads_is_an_object(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    guess = {"topic": "a", "mood": "b"}
    got = reviewing(daemon, *(to_ask(f"e{i}", guess, {"topic": {}, "mood": {}}) for i in range(2)),
                    to_ask("e2", {"topic": None, "mood": "b"}, {"topic": {}, "mood": {}}))
    done = adaptd("review", input='\nhot\n{"mood": "a"}\n\nq\n')
    assert [one["label"] for one in got] == [guess, {"mood": "a"}]
    assert "is an object" in done.stderr and "there is no guess yet" in done.stderr


def test_what_is_refused_is_told_and_not_asked_again(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    refused = {"error": {"code": "forgotten", "message": "this event was forgotten", "hint": "h"}}
    reviewing(daemon, to_ask("e0", "a", {"a": 1.0}), answer=(422, refused))
    done = adaptd("review", "-n", "1", input="\n")
    assert done.exit_code == 0 and "not taken: this event was forgotten" in done.stderr
    assert done.stdout.startswith("0 labels by") and "1 skipped" in done.stdout
    reviewing(daemon, to_ask("e0", "a", {"a": 1.0}), answer=(202, {"held": 1}))
    assert "1 wait, as learning is on hold" in adaptd("review", "-n", "1", input="\n").stdout


def test_a_list_that_another_person_is_given_is_waited_for(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    busy = {"error": {"code": "busy", "message": "another review is under way", "hint": ""}}
    answers: list[Answer] = [(200, {"items": [], "pool": 0}), (429, busy, {"Retry-After": "0"})]
    daemon.answers["/v1/text/review?n=3"] = lambda body: answers.pop()
    assert json.loads(adaptd("review", "-n", "3", "--json").stdout) == {"items": [], "pool": 0}


def test_the_report_says_what_cannot_be_told(adaptd: Adaptd, daemon: FakeDaemon) -> None:
    daemon.on("/v1/text/review/report", 200, {"teachers": [], "labels": 0, "later": None})
    assert "no label has come from a review yet" in adaptd("review", "--report").stdout
    later = {"events": 9, "right": 8, "prevented": 3, "caused": 1, "net": 2}
    ana = {"teacher": "review:ana", "labels": 4, "answered": 4, "corrected": 2, "later": later}
    daemon.on("/v1/text/review/report", 200, {"teachers": [ana], "labels": 4, "later": later})
    shown = adaptd("review", "--report").stdout
    assert "review:ana" in shown and "newest 9 answers" in shown and "3 are right only with them, 1 only without" in shown


# -- ingest ---------------------------------------------------------------------------------------------------


def receipts(body: list[Any], rejected: dict[int, str] | None = None) -> Answer:
    bad = [{"index": i, "error": {"code": "bad_payload", "message": why, "hint": "mend it"}}
           for i, why in (rejected or {}).items()]
    return 202, {"accepted": len(body) - len(bad), "duplicates": 0, "held": 0, "rejected": bad, "events": [], "seq": 1}


def test_ingest_sends_batches_with_source_and_stable_ids(adaptd: Adaptd, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.answers["/v1/text/events"] = receipts
    file = tmp_path / "a.jsonl"
    lines = [{"text": f"t{n}", "label": "a"} for n in range(600)] + [{"text": "own", "id": 7, "source": "crm"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    for _ in range(2):
        result = adaptd("ingest", str(file), "--source", "dump")
        assert (result.exit_code, result.stdout) == (0, "601 accepted, 0 duplicates, 0 held, 0 rejected\n")
    first, second, *again = [body for _, _, body in daemon.asked]
    assert (len(first), len(second)) == (500, 101)
    assert again == [first, second]
    assert first[0] == {"text": "t0", "label": "a", "source": "dump", "id": first[0]["id"]}
    assert len({event["id"] for event in first}) == 500
    assert first[0]["id"] == hashlib.sha256(b"a.jsonl\x001\x00" + file.read_bytes().splitlines()[0]).hexdigest()[:24]  # for good
    assert second[-1] == {"text": "own", "id": 7, "source": "crm"}


BAD_LINES = [(b"{", "not JSON"), (b"[1]", "not a JSON object"), (b'{"text": NaN}', "NaN"), (b'{"x": 1e999}', "1e999"),
             (b'{"text": "a", "text": "b"}', "'text' stands there twice"), (b'{"text": "\xff"}', "not UTF-8"),
             (b"[" * 100_000, "nested too deeply"), (b'{"n": ' + b"9" * 5000 + b"}", "digits")]


@pytest.mark.parametrize(("line", "why"), BAD_LINES, ids=[why for _, why in BAD_LINES])
def test_a_line_that_cannot_be_read_is_reported_and_the_others_go_on(
        adaptd: Adaptd, daemon: FakeDaemon, tmp_path: Path, line: bytes, why: str) -> None:
    daemon.answers["/v1/text/events"] = receipts
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": "good too"}')
    result = adaptd("ingest", str(file), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"accepted": 2, "duplicates": 0, "held": 0, "rejected": 1}
    assert f"{file}:3: " in result.stderr and why in result.stderr


def test_a_line_that_is_too_long_is_skipped_without_reading_it_whole(
        adaptd: Adaptd, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptd.cli.ingest.LINE_BYTES", 100)
    daemon.answers["/v1/text/events"] = receipts
    file = tmp_path / "a.jsonl"
    file.write_text("x" * 450 + '\n{"text": "good"}')
    result = adaptd("ingest", str(file))
    assert result.exit_code == 1
    assert f"{file}:1: longer than" in result.stderr
    assert [event["text"] for event in daemon.asked[0][2]] == ["good"]


def test_lines_that_the_daemon_rejects_are_reported_by_line(adaptd: Adaptd, daemon: FakeDaemon,
                                                            tmp_path: Path) -> None:
    daemon.answers["/v1/text/events"] = lambda body: receipts(body, {1: "the text is empty"})
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "good"}\n\n{"text": ""}\n')
    result = adaptd("ingest", str(file))
    assert result.exit_code == 1
    assert f"{file}:3: the text is empty (mend it)\n" in result.stderr
    assert result.stdout == "1 accepted, 0 duplicates, 0 held, 1 rejected\n"


def test_a_batch_that_is_refused_as_a_whole_is_halved_to_the_line_at_fault(adaptd: Adaptd, daemon: FakeDaemon,
                                                                           tmp_path: Path) -> None:
    def picky(body: list[Any]) -> Answer:
        if any(event["text"] == "huge" for event in body):
            return 413, {"error": {"code": "too_large", "message": "too large", "hint": "split it"}}
        return receipts(body)

    daemon.answers["/v1/text/events"] = picky
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps({"text": "huge" if n == 5 else "ok"}) for n in range(9)))
    result = adaptd("ingest", str(file))
    assert result.stdout == "8 accepted, 0 duplicates, 0 held, 1 rejected\n"
    assert f"{file}:6: too large (split it)" in result.stderr


def test_a_busy_daemon_is_waited_for(adaptd: Adaptd, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("adaptd.cli.ingest.time.sleep", slept.append)
    busy = 429, {"error": {"code": "busy", "message": "full", "hint": ""}}, {"Retry-After": "3"}
    daemon.answers["/v1/text/events"] = lambda body: busy if len(daemon.asked) < 3 else receipts(body)
    result = adaptd("ingest", "-", input='{"text": "a"}\n')
    assert (result.exit_code, slept) == (0, [3.0, 3.0])
    assert "1 accepted" in result.stdout


def test_a_daemon_that_goes_away_is_told_with_what_was_done(adaptd: Adaptd, daemon: FakeDaemon,
                                                            tmp_path: Path) -> None:
    gone = 503, {"error": {"code": "store_failed", "message": "the store could not be written", "hint": ""}}
    daemon.answers["/v1/text/events"] = lambda body: receipts(body) if len(daemon.asked) == 1 else gone
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps({"text": str(n)}) for n in range(501)))
    result = adaptd("ingest", str(file))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "stopped after 500 accepted" in result.stderr and "could not be written" in result.stderr


def test_a_missing_file_is_a_usage_error(adaptd: Adaptd) -> None:
    assert adaptd("ingest", "nowhere.jsonl").exit_code == 2


# -- the rest -------------------------------------------------------------------------------------------------


def test_db_current_and_upgrade(adaptd: Adaptd, stopped: Path) -> None:
    current = json.loads(adaptd("db", "--json").stdout)
    assert current["current"] == current["wanted"]
    upgraded = json.loads(adaptd("db", "upgrade", "--json").stdout)
    assert upgraded == {"before": current["current"], "after": current["wanted"]}
    assert offline.revisions(config.load(stopped)[1]) == (current["current"], current["wanted"])


def test_config_path_and_check(adaptd: Adaptd, folder: Path) -> None:
    assert adaptd("config", "path").stdout == f"{folder / 'adaptd.toml'}\n"
    result = adaptd("config", "check")
    assert (result.exit_code, result.stdout) == (0, f"{folder / 'adaptd.toml'}: valid\n"), result.stderr


@pytest.mark.parametrize(("text", "field"), [
    ("[domains.a]\nkind = 'txt'", "domains.a.kind"), ("[gate]\nkind = 'not-wrse'", "gate.kind"),
    ("[gate]\noptions = {margn = 1}", "gate.options.margn"),
    ("[feeds.f]\nkind = 'jsonlines'\ndomain = 'text'", "feeds.f.kind")])
def test_config_check_knows_what_plugins_give(adaptd: Adaptd, folder: Path, text: str, field: str) -> None:
    (folder / "adaptd.toml").write_text(text)
    result = adaptd("config", "check")
    assert result.exit_code == 78
    assert field in result.stderr and "did you mean" in result.stderr


def test_plugins_list_imports_none(adaptd: Adaptd) -> None:
    result = adaptd("plugins", "--json")
    assert result.exit_code == 0
    assert isinstance(json.loads(result.stdout)["plugins"], list)


def test_run_tells_a_bad_configuration_before_it_imports_the_daemon(adaptd: Adaptd, folder: Path) -> None:
    (folder / "adaptd.toml").write_text("prot = 1")
    result = adaptd("run")
    assert result.exit_code == 78
    assert "prot" in result.stderr


def test_plain_takes_control_characters_out() -> None:
    assert plain("a\x1b[31m\r\u202eb\ud800") == "a\ufffd[31m\ufffd\ufffdb\ufffd"
