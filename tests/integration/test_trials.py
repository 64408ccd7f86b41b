"""Trials of weak labels on the real service in this process; what happens while one is judged, and what it is judged to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from adaptd import setaside
from adaptd.adapt import Outcome
from adaptd.errors import Conflict
from adaptd.records import Verdict
from tests.integration.live import Live
from tests.integration.test_counterfactual import CARD, RAIN, lesson, teach


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(tmp_path / "store") as life:
        teach(life, [*lesson(CARD[:4], "card", "desk"), *lesson(RAIN[:4], "rain", "desk")])
        teach(life, [*lesson(CARD[4:], "card", "weak:rules"), *lesson(RAIN[4:], "rain", "weak:rules")])
        yield life


def tried(live: Live, meanwhile: Callable[[], object] = lambda: None, decision: str = "promote") -> Outcome:
    """Try what waits; the judge lets something happen meanwhile."""
    def judge(_: object) -> Verdict:
        meanwhile()
        return Verdict(decision=decision, reasons=["judged"], evidence={})

    live.served.admission._gate = SimpleNamespace(judge=judge, min_rows=1000)  # type: ignore[assignment]
    return live.served.admission.start("me", pseudo=False).result(60)


def waiting(live: Live) -> dict[str, int]:
    with live.parts.reader.connect() as connection:
        return setaside.waiting(connection, live.served.id)


def test_what_was_tried_on_another_version_is_not_admitted(live: Live) -> None:
    outcome = tried(live, lambda: live.served.versions.snapshot("", "me"))
    assert outcome.verdict.decision == "undecided" and "another version went live" in outcome.verdict.reasons[-1]
    assert waiting(live) == {"weak:rules": 6}
    teach(live, lesson(["card or rain"], "card", "desk"))
    assert tried(live).verdict.decision == "promote" and waiting(live) == {}


def test_what_is_put_on_hold_meanwhile_is_not_admitted(live: Live) -> None:
    outcome = tried(live, lambda: live.parts.journal.late.hold(live.served.id, "learning", "weak:rules", "", "me").result(10))
    assert outcome.verdict.decision == "undecided" and "put on hold" in outcome.verdict.reasons[-1]
    assert waiting(live) == {"weak:rules": 6}


def test_labels_that_come_during_a_trial_are_new_after_it(live: Live) -> None:
    tried(live, lambda: teach(live, lesson(["card or rain"], "card", "weak:rules")), "undecided")
    assert "7 labels" in tried(live, decision="undecided").verdict.reasons[0]
    assert "no label came since" in tried(live, decision="undecided").verdict.reasons[0]


def test_a_trial_that_fails_is_noted_and_may_be_asked_for_again(live: Live) -> None:
    with pytest.raises(RuntimeError):
        tried(live, _fail)
    with live.parts.reader.connect() as connection:
        last = live.served.admission.facts(connection)["last"]
    assert (last["source"], last["what"], last["labels"]) == ("weak:rules", "weak-failed", 0)
    assert tried(live).verdict.decision == "promote"


def _fail() -> None:
    raise RuntimeError("broken")


def test_the_history_counts_what_was_learned(live: Live) -> None:
    with live.parts.reader.connect() as connection:
        event = connection.exec_driver_sql("SELECT id FROM event WHERE source = 'weak:rules'").scalars().first()
    told = [{"event": event, "label": "card", "teacher": "ana"}]
    tried(live, lambda: live.do(live.service.feedback("text", told, source="http")))
    with live.parts.reader.connect() as connection:
        last = live.served.admission.facts(connection)["last"]
        reasons = connection.exec_driver_sql("SELECT reason FROM action WHERE what = 'snapshot'").scalars().all()
    assert (last["admitted"], last["labels"], reasons[-1], waiting(live)) == (True, 5, "5 weak labels of weak:rules", {})


def test_only_the_same_request_joins_a_trial_that_runs(live: Live) -> None:
    def meanwhile() -> None:
        live.served.admission.start("me", pseudo=False)
        with pytest.raises(Conflict, match="trial of weak labels runs"):
            live.served.admission.start("me", pseudo=True)

    assert tried(live, meanwhile).verdict.decision == "promote"
