"""Adaptations that start by themselves, on a real store: by count, twice as late after one that gained nothing; by drift."""

from __future__ import annotations

import random
from pathlib import Path

from adaptd.paths import CONFIG
from tests.acceptance.daemon import until
from tests.integration.live import SETTINGS, Json, Live

TEXTS = {"card": "a", "rain": "b"}


def store(folder: Path, adapt: str) -> Path:
    folder.mkdir(mode=0o700)
    (folder / CONFIG).write_text(SETTINGS.replace("every_labels = 0\nmin_labels = 2", adapt))
    return folder


def teach(live: Live, count: int) -> None:
    for text, label in list(TEXTS.items()) * (count // 2):
        live.do(live.service.events("text", [{"text": text, "label": label}], source="http"))


def status(live: Live) -> Json:
    found: Json = live.service.status()["domains"]["text"]
    return found


def over(live: Live, verdict: str) -> Json:
    def last() -> Json | None:
        now = status(live)
        return now["last_verdict"] if now["adapting"] is None and (now["last_verdict"] or {}).get("verdict") == verdict else None

    found: Json = until(last, f"one is over: {verdict}")  # until it begins the one before it is the last
    return found


def test_what_gains_nothing_waits_for_twice_as_many_labels_over_a_restart(tmp_path: Path) -> None:
    folder = store(tmp_path / "store", "every_labels = 6\nmin_labels = 2")
    with Live(folder) as live:
        live.verdict = "reject"
        teach(live, 6)
        assert over(live, "reject")["started"] == "6 new labels"
        assert (status(live)["next_adaptation"]["at_labels"], status(live)["next_adaptation"]["backed_off"]) == (12, 2)
        teach(live, 6)
        until(lambda: status(live)["next_adaptation"]["labels"] == 6, "all six are learned")
        assert status(live)["adapting"] is None
        live.close()
    with Live(folder) as live:
        live.verdict = "promote"
        assert status(live)["next_adaptation"]["labels"] == 6 and status(live)["next_adaptation"]["at_labels"] == 12
        teach(live, 6)
        assert over(live, "promote")["started"] == "12 new labels"
        assert status(live)["next_adaptation"]["at_labels"] == 6


def test_errors_that_rise_start_one(tmp_path: Path) -> None:
    chance = random.Random(0)
    with Live(store(tmp_path / "store", "every_labels = 0\nmin_labels = 50\non_drift = true")) as live:
        live.verdict = "reject"

        def answered(batches: int, wrong: float) -> None:
            for _ in range(batches):
                asked = [chance.choice(list(TEXTS)) for _ in range(50)]
                said = live.do(live.service.predict("text", [{"text": text} for text in asked], source="http", explain=False,
                                                    min_seq=None, actor="m"))["predictions"]
                labels = [chance.choice("ab") if chance.random() < wrong else TEXTS[text] for text in asked]
                live.do(live.service.feedback("text", [{"event": one["event"], "label": label}
                                                       for one, label in zip(said, labels, strict=True)], source="http"))

        teach(live, 4)
        answered(10, 0.0)
        assert status(live)["last_verdict"] is None and not status(live)["next_adaptation"]["drifted"]
        answered(8, 1.0)
        assert "drift: errors have risen" in over(live, "reject")["started"]
