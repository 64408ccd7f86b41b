"""What a generator gives is checked: what is no text is told with its reason, and costs no other text."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adaptd.bench.waiting import until
from adaptd.errors import NotWritten
from adaptd.generation import Generation
from adaptd.generator import refused, written
from adaptd.records import Brief, Lesson, Written

GOOD = '{"written": [{"text": "good", "confidence": 1, "reason": null}]}'
PROGRAM = f"""#!{sys.executable}
import sys
from pathlib import Path

lives = Path("lives")  # each life gives another of the answers
life = lives.stat().st_size if lives.exists() else 0
lives.write_text("x" * (life + 1))
for place, line in enumerate(sys.stdin):
    print(Path("answers").read_text().splitlines()[life] if place else '{{"ready": true}}', flush=True)
"""

KEEPER = f"""#!{sys.executable}
import json
import sys
from pathlib import Path

held = None
for place, line in enumerate(sys.stdin):
    told = json.loads(line)
    if "weights" in told:
        held = told["weights"]
        why = {{"message": "of another model", "hint": "adapt again"}} if held == "b2xk" else None
        print(json.dumps({{"refused": why}}), flush=True)
        with Path("handed").open("a") as file:
            print(held, file=file)
    elif place:
        print(json.dumps({{"written": [{{"text": f"{{held}}", "confidence": 1, "reason": None}}]}}), flush=True)
    else:
        print('{{"ready": true}}', flush=True)
"""


class Odd:
    """A generator that gives what it is told to; of a brief alone what is right."""

    def __init__(self, gives: Callable[[Brief], Any], extra: int = 0) -> None:
        self.gives, self.extra = gives, extra

    def load(self) -> None:
        """Nothing is needed."""

    def write(self, briefs: Sequence[Brief]) -> Sequence[Written]:
        """Give as many as it is told to, where there are several."""
        found = [self.gives(brief) for brief in briefs]
        return [*found, *found][: len(found) + self.extra] if len(found) > 1 else found


@pytest.mark.parametrize("extra", [-1, 1])
def test_too_few_or_too_many_texts_are_written_one_by_one_so_that_each_is_its_event_s(extra: int) -> None:
    odd = Odd(lambda brief: Written(text=brief.text.upper(), confidence=0.5), extra)
    found = written(odd, [Brief(text="a"), Brief(text="b")])
    assert [one.text for one in found] == ["A", "B"]


@pytest.mark.parametrize("given", [
    Written(text="x", confidence=1.5), Written(text="x", confidence=-0.1), Written(text="x", confidence=math.nan),
    Written(text="x", confidence=math.inf), Written(text="x", confidence=None), Written(text=7),  # type: ignore[arg-type]
    Written(text="x", reason=7), Written(text="\ud800"), "x", None])  # type: ignore[arg-type]
def test_what_is_no_text_with_a_confidence_is_not_written_and_the_others_are(given: Any) -> None:
    good = Written(text="good", confidence=0.5)
    bad, other = written(Odd(lambda brief: given if brief.text == "bad" else good), [Brief(text="bad"), Brief(text="b")])
    assert bad.text is None and bad.confidence == 0 and "could not be written" in (bad.reason or "")
    assert other == good


@pytest.mark.parametrize("answer", [
    '{"written": []}', '{"written": [{"text": "x", "confidence": null, "reason": null}]}', "no JSON", "{}", "7",
    '{"written": [{"text": "x", "confidence": 1, "reason": null}, {"text": "y", "confidence": 1, "reason": null}]}'])
def test_an_answer_that_is_none_is_told_and_the_next_text_is_written(
        answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, reports = tmp_path / "program", list[str]()
    program.write_text(PROGRAM)
    program.chmod(0o700)
    (tmp_path / "answers").write_text(f"{answer}\n{GOOD}\n")
    monkeypatch.setattr(sys, "executable", str(program))
    generation = Generation("letters", {}, tmp_path, lambda code, message, hint: reports.append(code))
    generation.start()
    try:
        with pytest.raises(NotWritten, match="something else"):
            generation.write([Brief(text="a")]).result(60)
        assert reports == ["not_written"]
        assert generation.write([Brief(text="b")]).result(60) == [Written(text="good", confidence=1.0)]
    finally:
        generation.close()


def test_texts_are_written_with_the_weights_that_each_asks_for_which_are_handed_over_when_they_are_others(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, reports = tmp_path / "program", list[str]()
    program.write_text(KEEPER)
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    new, old = (SimpleNamespace(digest=name, file=name.encode()) for name in ("new", "old"))
    generation = Generation("letters", {}, tmp_path, lambda code, message, hint: reports.append(message))
    generation.start()
    try:
        def asked(weights: Any) -> str | None:
            return generation.write([Brief(text="a")], weights).result(60)[0].text

        def handed() -> list[str]:
            return (tmp_path / "handed").read_text().split() if (tmp_path / "handed").exists() else []

        assert asked(None) == "None" and handed() == []
        generation.adopt(new)
        until(lambda: handed() == ["bmV3"], "before it is asked for")
        assert [asked(new), asked(new)] == ["bmV3", "bmV3"] and handed() == ["bmV3"], "once"
        assert asked(old) == "b2xk"
        until(lambda: handed() == ["bmV3", "b2xk", "bmV3"], "what is not live goes when it has been written with")
        assert len(reports) == 1 and "of another model" in reports[0]
        generation.adopt(None)
        until(lambda: handed()[3:] == ["None"], "what was forgotten is not kept")
        assert asked(None) == "None" and generation._child is not None
        generation.adopt(new)
        generation._child.kill()
        generation._child.wait()
        assert asked(new) == "bmV3", "another process is given them, too"
    finally:
        generation.close()


class Pupil(Odd):
    """A generator that is trained, and takes the weights that it is told to."""

    held: bytes | None = b"none yet"

    def train(self, lesson: Lesson) -> bytes:
        """Learn nothing."""
        return b""

    def adopt(self, weights: bytes | None) -> None:
        """Take what is good."""
        if weights == b"odd":
            raise ValueError("they are odd")
        self.held = weights

    def score(self, text: str, taught: str) -> float:
        """Compare."""
        return float(text == taught)


def test_weights_that_cannot_be_taken_leave_the_model_as_it_is_and_say_why() -> None:
    pupil = Pupil(lambda brief: None)
    assert refused(pupil, b"good") is None and pupil.held == b"good"
    why = refused(pupil, b"odd")
    assert why is not None and "they are odd" in why["message"] and pupil.held is None
    assert refused(Odd(lambda brief: None), None) is None
    other = refused(Odd(lambda brief: None), b"good")
    assert other is not None and "none that is trained" in other["message"]
