"""Heads of one domain are judged apart: one goes live while another stays; the service in this process, on a real store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptd import registry
from adaptd.paths import CONFIG
from tests.integration.live import SETTINGS, Live

HEADS = SETTINGS + '[domains.text.options.heads]\ntopic = { kind = "classify" }\ntags = { kind = "labels" }\n'


def adapt(life: Live, **verdicts: str) -> tuple[str, registry.Version]:
    """Adapt once to something new, with a verdict for each head; return the whole verdict, and the version with its files."""
    label = [{"topic": "card", "tags": ["bank"]}, {"topic": "rain", "tags": []}]
    events = [{"text": f"{('lost card', 'rain tomorrow')[i % 2]} {i}", "label": label[i % 2]} for i in range(12)]
    assert not life.do(life.service.events("text", events, source="http"))["rejected"]
    child = life.served.adaptation._child_run

    def judged(module: str, folder: Path, stage: str) -> None:
        life.verdict = verdicts[folder.name]
        child(module, folder, stage)

    life.served.adaptation._child_run = judged  # type: ignore[method-assign]
    try:
        done: Any = life.do(life.service.adapt("text", wait=True, actor="m"))
    finally:
        life.served.adaptation._child_run = child  # type: ignore[method-assign]
    with life.parts.reader.connect() as connection:
        return done["verdict"], registry.version(connection, done["version"])


def test_a_head_that_passes_goes_live_and_the_other_stays_with_its_tries(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / CONFIG).write_text(HEADS)
    with Live(folder) as life:
        versions, before = life.served.versions, life.served.learner.state.heads["tags"].adapter.digest
        assert adapt(life, topic="reject", tags="reject")[0] == "reject"
        assert (versions.tries("topic"), versions.tries("tags")) == ([1000], [1000])
        verdict, version = adapt(life, topic="promote", tags="reject")
        assert verdict == "promote" and life.served.learner.state.version == version.number
        heads = life.served.learner.state.heads
        assert heads["tags"].adapter.digest == before != heads["topic"].adapter.digest
        assert {"topic.adapter", "tags.adapter"} <= version.files.keys(), "the version has what answers, whole"
        assert (versions.tries("topic"), versions.tries("tags")) == ([], [1000, 1000])
        assert adapt(life, topic="undecided", tags="promote")[0] == "promote"
        assert (versions.tries("topic"), versions.tries("tags")) == ([0], [])
