"""The story that the demonstration plays against a real daemon, and what it keeps of it for picture and report.

Days of traffic: every text is asked first, its label follows two blocks later. One evening a source called "intern"
labels a backlog wrongly. Next morning the operator rolls back, puts the intern on hold and lets learning go on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from adaptd.client import Client
from adaptd.demo.board import Board
from adaptd.demo.cron import Cron
from adaptd.demo.data import BLOCKS, DAYS, Material, Row
from adaptd.errors import BadPayload, TrainingFailed

DELAY = 2  # blocks between a text and its label
ADAPT_AFTER = (3, 7, 10)  # days, counted from 0
SPOILT_AFTER = 10
RESUMED_AT = (SPOILT_AFTER + 1, 0)  # day and block: one block is answered while learning is on hold
INTERN, DESK, QUIZ = "intern", "desk", "quiz"
BATCH = 500
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Point:
    """Accuracy of both models on the asked texts of all topics labelled so far."""

    event: int
    day: float
    topics: int
    texts: int
    adaptd: float
    cron: float
    when: str = ""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something to point out at a place of the stream: topic, adapt, rollback, resume, night."""

    event: int
    kind: str
    text: str


@dataclass
class Record:
    """What came of it."""

    points: list[Point] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    adaptations: list[Json] = field(default_factory=list)
    answers: Json = field(default_factory=lambda: {"asked": 0, "adaptd": 0, "cron": 0})
    spoilt: list[Json] = field(default_factory=list)  # stretches of the stream that the bad source sent
    rollback: Json = field(default_factory=dict)

    def accuracy(self, when: str) -> tuple[float, float]:
        """Return both accuracies at a named moment."""
        point = next(p for p in self.points if p.when == when)
        return point.adaptd, point.cron

    def body(self) -> Json:
        """Return everything as a document."""
        return asdict(self)


class Story:
    """Plays material to a daemon and to its rival."""

    def __init__(self, client: Client, cron: Cron, material: Material, board: Board) -> None:
        self.record = Record()
        self._client = client
        self._cron = cron
        self._material = material
        self._board = board
        self._event = 0
        self._day = 0.0
        self._known: list[str] = []  # labels that were sent
        self._waiting: list[list[tuple[str, Row]]] = []  # asked blocks without labels yet

    def play(self) -> Record:
        """Play all of it."""
        for day in range(DAYS):
            self._play_day(day)
            if day in ADAPT_AFTER:
                self._adapt()
            if day == SPOILT_AFTER:
                self._spoil()
            self._night(day)
            if day == SPOILT_AFTER:
                self._repair()
        while self._waiting:
            self._label_oldest()
        self._evaluate("end")
        return self.record

    # -- ordinary traffic -------------------------------------------------------------------------------------

    def _play_day(self, day: int) -> None:
        for number, block in enumerate(self._material.blocks(day)):
            self._day = day + number / BLOCKS
            self._board.now(f"day {day + 1}: texts come, labels follow {DELAY} blocks later")
            self._ask(block)
            if len(self._waiting) > DELAY:
                self._label_oldest()
            if (day, number) == RESUMED_AT:
                self._resume()
            self._day = day + (number + 1) / BLOCKS
            if number >= DELAY:  # this day's first labels have come
                self._evaluate()

    def _ask(self, block: Sequence[Row]) -> None:
        """Let both answer a block; it is journalled, and waits for its labels."""
        answer = self._call("predict", {"inputs": [{"text": row.text, "source": DESK} for row in block]})
        rival = self._cron.answer([row.text for row in block])
        counts = self.record.answers
        counts["asked"] += len(block)
        counts["adaptd"] += sum(p["label"] == row.label for p, row in zip(answer["predictions"], block, strict=True))
        counts["cron"] += sum(label == row.label for label, row in zip(rival, block, strict=True))
        self._waiting.append([(p["event"], row) for p, row in zip(answer["predictions"], block, strict=True)])
        self._event += len(block)

    def _label_oldest(self) -> None:
        """Send the labels of the block that has waited longest, to both."""
        block = self._waiting.pop(0)
        self._ingest("feedback", [{"event": event, "label": row.label} for event, row in block])
        self._cron.label([row for _, row in block], DESK)
        for label in dict.fromkeys(row.label for _, row in block):
            if label not in self._known:
                self._known.append(label)
                self._mark("topic", label)
                self._board.said(f"day {int(self._day) + 1}: new topic {label!r}")

    def _night(self, day: int) -> None:
        self._board.now("night: the rival is refitted on all labels")
        took = self._cron.night()
        self._mark("night", f"refit in {took:.1f} s")
        if day == SPOILT_AFTER:
            self._evaluate("morning after")
        elif self.record.points:
            self._keep(self.record.points[-1].adaptd, self._asked())  # only the rival has changed

    # -- adaptation -------------------------------------------------------------------------------------------

    def _adapt(self) -> None:
        """Ask for an adaptation and keep its verdict, whatever it is."""
        self._board.now("adaptation: a child process trains a candidate, the gate judges it")
        began = time.monotonic()
        try:
            answer = self._call("adapt", {"wait": True}, timeout_s=None)
        except TrainingFailed as error:  # a candidate that could not be trained is part of an honest report
            answer = {"verdict": "failed", "version": None, "reasons": [error.message]}
        found = {"event": self._event, "verdict": answer["verdict"], "version": answer["version"],
                 "reasons": answer["reasons"], "seconds": round(time.monotonic() - began, 1)}
        self.record.adaptations.append(found)
        self._mark("adapt", f"adapt: {found['verdict']}")
        self._board.said(f"adaptation: {found['verdict']}: {found['reasons'][0]}")
        if found["verdict"] == "promote":
            self._evaluate()

    # -- the bad source and the way back ----------------------------------------------------------------------

    def _spoil(self) -> None:
        """Name the present state, then let the intern label a backlog: every label is the next topic's."""
        self._good = self._call("snapshot", {"reason": "end of the day"})["version"]
        self._board.said(f"snapshot: version {self._good}")
        self._evaluate("before the burst")
        rows = [row for row in self._material.wrong if row.label in self._known]
        began = self._event
        for part in (rows[:len(rows) // 3], rows[len(rows) // 3:2 * len(rows) // 3]):
            self._send_wrong(part)
            self._evaluate()
        self._later = rows[2 * len(rows) // 3:]
        before, after = self.record.accuracy("before the burst")[0], self.record.points[-1].adaptd
        self._board.said(f"the intern labelled {self._event - began} texts wrongly: "
                         f"accuracy {before:.1%} → {after:.1%}")

    def _send_wrong(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        self._board.now('evening: the source "intern" sends wrong labels')
        order = sorted(self._known)
        shifted = [Row(text=row.text, label=order[(order.index(row.label) + 1) % len(order)]) for row in rows]
        answer = self._ingest("events", [{"text": row.text, "label": row.label, "source": INTERN} for row in shifted])
        self._cron.label(shifted, INTERN)
        self.record.spoilt.append({"from": self._event, "to": self._event + len(rows), "held": answer["held"] > 0})
        self._event += len(rows)

    def _repair(self) -> None:
        """The morning after: back to the snapshot; the rival's table is cleaned at the same moment."""
        self._board.now(f"adaptd rollback --to {self._good}")
        began = time.monotonic()
        answer = self._call("rollback", {"to": self._good, "reason": "the intern's labels are wrong"})
        took = time.monotonic() - began
        struck = self._cron.strike(INTERN)
        self._mark("rollback", f"rollback to version {answer['version']}")
        self._evaluate("after rollback")
        self.record.rollback = {**answer, "seconds": round(took, 3), "rows_struck_from_cron": struck}
        accuracy, _ = self.record.accuracy("after rollback")
        self._board.said(f"rolled back to version {answer['version']} in {took:.2f} s, accuracy {accuracy:.1%}; "
                         f"what was live is kept as version {answer['saved']}")

    def _resume(self) -> None:
        """Go on without the intern, who sends once more: journalled, not learned."""
        self._call("hold", {"what": "learning", "source": INTERN, "reason": "wrong labels"})
        learned = self._call("resume", {"what": "learning", "reason": "the intern is on hold"})["learned"]
        self.record.rollback["learned_at_resume"] = learned
        self._mark("resume", "resume without the intern")
        self._board.said(f"learning goes on without the intern; {learned} good labels had waited")
        self._send_wrong(self._later)
        self._cron.strike(INTERN)
        self._evaluate("after resume")

    # -- figures ----------------------------------------------------------------------------------------------

    def _evaluate(self, when: str = "") -> None:
        """Ask both the held-back texts of the topics that were labelled so far."""
        rows = self._asked()
        if not rows:
            return
        answers: list[Any] = []
        for start in range(0, len(rows), BATCH):
            inputs = [{"text": row.text, "source": QUIZ} for row in rows[start:start + BATCH]]
            answer = self._call("predict", {"inputs": inputs})
            answers += [p["label"] for p in answer["predictions"]]
        self._board.figures({"version": str(answer["version"])})
        self._keep(_share(answers, rows), rows, when)

    def _asked(self) -> list[Row]:
        return [row for row in self._material.asked if row.label in self._known]

    def _keep(self, adaptd: float, rows: Sequence[Row], when: str = "") -> None:
        """Keep a point, with the rival's answers as they are now."""
        cron = _share(self._cron.answer([row.text for row in rows]), rows)
        self.record.points.append(Point(event=self._event, day=round(self._day, 2), topics=len(self._known),
                                        texts=len(rows), adaptd=adaptd, cron=cron, when=when))
        self._board.figures({"day": f"{min(int(self._day) + 1, DAYS)} of {DAYS}", "events": str(self._event),
                             "topics": str(len(self._known)), "accuracy of adaptd": f"{adaptd:.1%}",
                             "accuracy of the nightly refit": f"{cron:.1%}"})

    def _mark(self, kind: str, text: str) -> None:
        self.record.marks.append(Mark(event=self._event, kind=kind, text=text))

    def _call(self, verb: str, body: Json, timeout_s: float | None = 120.0) -> Json:
        return self._client.call("POST", f"/v1/text/{verb}", body, timeout_s)

    def _ingest(self, verb: str, items: Sequence[Json]) -> Json:
        answer = self._client.call("POST", f"/v1/text/{verb}", list(items))
        if answer["rejected"]:
            error = answer["rejected"][0]["error"]
            raise BadPayload(error["message"], field=error.get("field"), hint=error["hint"])
        return answer


def _share(answers: Sequence[Any], rows: Sequence[Row]) -> float:
    return round(sum(int(a == row.label) for a, row in zip(answers, rows, strict=True)) / len(rows), 4)
