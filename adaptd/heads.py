"""Heads: what a domain is asked for. One label, a reply, a text that is written, several labels, one of an order, or a number.

Where: a domain declares them; the door checks labels by them; `adaptd.model.reading` reads their answers off probabilities.
All kinds learn alike: a learned row has one target, a string, which is the label or the label's JSON. So memory, sums, folds,
rollback and forget know of one kind, and what a kind is shows in what a label may be and in what an answer says. `Spans` alone
has a row for each word of a text, whose target is the word's tag.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Any, ClassVar

from adaptd.errors import BadPayload
from adaptd.records import canonical
from adaptd.words import MOST, Place, Span, tags, words

LABEL_CHARACTERS = 256  # a label is a name, not a document
SEVERAL = 32  # labels of one event
STEPS = 1000  # numbers that a head can tell apart
SHORTENED = re.compile(r"… #[0-9a-f]{16}$")  # how the key of a long reply ends
BEGINNING = LABEL_CHARACTERS - 19  # characters of a long reply in its key
WRITTEN = "text"  # the one class of what a generating head has learned


def as_target(label: Any) -> Any:
    """Return what a learned row has of a label: itself, or its JSON; None, which is none, stays so.

    >>> as_target("a"), as_target(["a", "b"]), as_target(4), as_target(None)
    ('a', '["a","b"]', '4', None)
    """
    return label if label is None or isinstance(label, str) else canonical(label)


def named(target: str) -> tuple[str, ...]:
    """Return the labels that a target names: those of a list, else itself."""
    if target.startswith("["):
        try:
            return tuple(map(str, json.loads(target)))
        except ValueError:  # a name that begins so
            pass
    return (target,)


def key(text: str) -> str:
    """Return what a text is learned as: itself, or of a long one its beginning and a digest.

    >>> key(" Guten Tag "), len(key("Guten Tag. " * 100))
    ('Guten Tag', 255)
    """
    text = unicodedata.normalize("NFC", text.strip())
    if len(text) <= LABEL_CHARACTERS:
        return text
    return f"{text[:BEGINNING].rstrip()}… #{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class Classify:
    """A head that answers with one label; labels are learned as they appear."""

    kind: ClassVar[str] = "classify"

    def check(self, target: Any, field: str) -> str:
        """Return the label, cleaned; raise BadPayload when it cannot be one."""
        return _name(target, field, 'send {"label": "some name"}')

    def label(self, target: str) -> Any:
        """Return the label of a target, as clients send it."""
        return target


@dataclass(frozen=True, kw_only=True)
class Text(Classify):
    """A label that is a text of any length: another teacher's words are no contradiction.

    What is learned, scored and shown is its key: the text itself, or of a long one its beginning and a digest. The whole
    text stays where it came in, in the journal's labels, and is read from there (`adaptd.remembered`): a rollback has nothing
    more to bring back, and when the last event that says it is forgotten, the text is gone.
    """

    def check(self, target: Any, field: str) -> str:
        """Return a text's key (a key's is itself); raise BadPayload when it can be none."""
        return super().check(key(target) if isinstance(target, str) else target, field)


@dataclass(frozen=True, kw_only=True)
class Reply(Text):
    """A head that answers with what somebody said once.

    Of the events whose reply nobody has given yet at most a share of `unseen` is answered; the others wait for a person.
    """

    kind: ClassVar[str] = "reply"
    unseen: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0 < self.unseen < 1:
            raise ValueError("unseen must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Generate(Text):
    """A head that answers with a text written for the event, by the domain's `generator`, which is given the nearest examples.

    Texts are mostly all different, so they are no classes: what is learned is of one class, and memory alone decides which of it
    is near. There is nothing to hold an answer right by but equality: what is written well the domain measures (an observer).
    """

    kind: ClassVar[str] = "generate"
    trainable: bool = False  # the generator is one that an adaptation trains (`adaptd.interfaces.Trainable`)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """A head that answers with as many labels as apply, none too; labels are learned as they appear.

    A row's target is the whole set (label powerset; Boutell et al., 2004); an answer names each label that is more likely
    than not over all sets that have it, so it may be a set that nobody taught (as pruned sets do; Read et al., 2008).
    """

    kind: ClassVar[str] = "labels"

    def check(self, target: Any, field: str) -> str:
        """Return the labels as JSON, sorted, each once; raise BadPayload when they cannot be labels."""
        hint = 'send {"label": ["one", "another"]}, or [] where none applies'
        if not isinstance(target, list | tuple):
            raise BadPayload(f"the label must be a list of labels, not {type(target).__name__}", field=field, hint=hint)
        if len(target) > SEVERAL:
            raise BadPayload(f"{len(target)} labels of one event; the limit is {SEVERAL}", field=field,
                             hint="keep those that matter, or divide the event")
        return canonical(sorted({_name(one, f"{field}[{place}]", hint) for place, one in enumerate(target)}))

    def label(self, target: str) -> Any:
        """Return the labels of a target."""
        return list(named(target))


@dataclass(frozen=True, kw_only=True)
class Ordinal:
    """A head that answers with one of a few classes that have an order: the median of what is likely."""

    kind: ClassVar[str] = "ordinal"
    classes: Sequence[str | int | float]  # from the least to the most

    def __post_init__(self) -> None:
        """Refuse classes that are no order."""
        if isinstance(self.classes, str) or len({as_target(one) for one in self.classes}) != len(self.classes) or \
                len(self.classes) < 2:
            raise ValueError("classes must be at least two different ones, in their order")
        object.__setattr__(self, "classes", tuple(self.classes))  # a file gives a list, which has no hash

    def check(self, target: Any, field: str) -> str:
        """Return the class as a target; raise BadPayload when it is none."""
        meant = [one for one in self.classes if target == one or target == str(one)]  # of a table's cell, too
        if isinstance(target, bool) or not meant:
            raise BadPayload(f"{str(target)[:80]!r} is none of the classes", field=field,
                             hint=f"they are: {', '.join(map(str, self.classes))}")
        return str(as_target(meant[0]))

    def label(self, target: str) -> Any:
        """Return the class of a target."""
        return next((one for one in self.classes if as_target(one) == target), target)

    def value(self, target: str) -> float:
        """Return the place of a target in the order; nan of one that the order has no more."""
        return {as_target(one): float(place) for place, one in enumerate(self.classes)}.get(target, math.nan)


@dataclass(frozen=True, kw_only=True)
class Regress:
    """A head that answers with a number, known to a step: of those that were taught, the one nearest to what is expected."""

    kind: ClassVar[str] = "regress"
    low: float
    high: float
    step: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no range, or has too many steps."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high and self.step > 0):
            raise ValueError("low must be below high, and step above 0")
        if (self.high - self.low) / self.step > STEPS:
            raise ValueError(f"more than {STEPS} steps from low to high: a larger step will do")

    def check(self, target: Any, field: str) -> str:
        """Return the number as a target, rounded to the step; raise BadPayload when it is none, or out of range."""
        hint = f"send a number from {self.low:g} to {self.high:g}"
        number = math.nan if isinstance(target, bool) or not isinstance(target, str | int | float) else self.value(target)
        if math.isnan(number):
            raise BadPayload(f"{str(target)[:80]!r} is no number", field=field, hint=hint)
        if not self.low <= number <= self.high:
            raise BadPayload(f"{number:g} is not from {self.low:g} to {self.high:g}", field=field, hint=hint)
        steps = min(round((number - self.low) / self.step), math.floor((self.high - self.low) / self.step + 1e-9))
        return canonical(round(self.low + steps * self.step, 9) + 0.0)

    def label(self, target: str) -> Any:
        """Return the number of a target."""
        value = self.value(target)
        return target if math.isnan(value) else value

    def value(self, target: str | float) -> float:
        """Return the number that is written; nan where none is, as the head was of another kind before."""
        try:
            return float(target)
        except (ValueError, OverflowError):
            return math.nan


@dataclass(frozen=True, kw_only=True)
class Spans:
    """A head that answers with the spans of a text that are something, each with its type; types are learned as they appear.

    A label is a list of {"start", "end", "type"}: Unicode code points of the text, `end` behind the last one. What is learned is
    a tag for each word (`adaptd.words`), so a span that cuts a word is learned as the whole one. An answer can be sent back as it
    is: `text`, which is held against the event's, `words` and `confidence` may be there.
    """

    kind: ClassVar[str] = "spans"

    def check(self, target: Any, field: str) -> str:
        """Return the spans as JSON, in their order; raise BadPayload when they cannot be spans of any text."""
        if not isinstance(target, list | tuple):
            raise BadPayload(f"the label must be a list of spans, not {type(target).__name__}", field=field, hint=SPAN)
        if len(target) > MOST:
            raise BadPayload(f"{len(target)} spans of one text; the limit is {MOST}", field=field, hint="divide the text")
        found = sorted((_span(one, f"{field}[{place}]") for place, one in enumerate(target)), key=itemgetter("start", "end"))
        for one, other in pairwise(found):
            if other["start"] < one["end"]:
                raise BadPayload(f"the spans {_shown(one)} and {_shown(other)} overlap", field=field,
                                 hint="a character is in one span at most: keep one of them, or join them")
        return canonical(found)

    def label(self, target: str) -> Any:
        """Return a row's tag."""
        return target

    def rows(self, target: str, text: str, field: str = "label") -> dict[int, str]:
        """Return the tag of each word of a text by checked spans; raise BadPayload where they are not of this text."""
        places = words(text)
        found: list[Span] = []
        for place, one in enumerate(json.loads(target)):
            first, behind = _words(one, text, places, f"{field}[{place}]")
            if found and first < found[-1][1]:
                raise BadPayload(f"the span {_shown(one)} is in a word that another one is in", field=f"{field}[{place}]",
                                 hint="words are tagged whole: keep one of them, or join them")
            found.append((first, behind, one["type"]))
        return tags(found, len(places))

    def shown(self, span: Span, text: str, places: Sequence[Place]) -> dict[str, Any]:
        """Return a span of words as an answer has it."""
        first, behind, kind = span
        start, end = places[first][0], places[behind - 1][1]
        return {"start": start, "end": end, "type": kind, "text": text[start:end], "words": [first, behind]}


SPAN = 'send [{"start": 0, "end": 5, "type": "some name"}], characters from 0 on and `end` behind the last one; [] where none is'
SPAN_FIELDS = ("start", "end", "type", "text", "words", "confidence")
Head = Classify | Reply | Generate | Labels | Ordinal | Regress | Spans
KINDS: Mapping[str, type[Head]] = {one.kind: one for one in (Classify, Reply, Generate, Labels, Ordinal, Regress, Spans)}


def class_of(head: Head, target: str) -> str:
    """Return the class that a target is learned as: itself, but for texts that are written.

    >>> class_of(Classify(), "a"), class_of(Generate(), "Guten Tag")
    ('a', 'text')
    """
    return WRITTEN if isinstance(head, Generate) else target


def written(declared: Mapping[str, Head]) -> frozenset[str]:
    """Return those of some heads whose texts are written."""
    return frozenset(name for name, head in declared.items() if isinstance(head, Generate))


def recorded(label: Any) -> Any:
    """Return an answered label as the store keeps it: of spans the tags of the words, beside what people see."""
    if not isinstance(label, Tagged):
        return label
    return {"spans": [{name: one[name] for name in ("start", "end", "type", "words")} for one in label]}


def answered(stored: Any) -> Any:
    """Return a label that the store keeps as people see it."""
    return stored["spans"] if isinstance(stored, dict) else stored


def said(stored: Any) -> str | Mapping[int, str] | None:
    """Return a label that the store keeps as rows can be held against: a target, of a long text its key, or the tags of words."""
    if isinstance(stored, dict):
        return tags([(*one["words"], one["type"]) for one in stored["spans"]], 0)
    if isinstance(stored, str) and len(stored) > LABEL_CHARACTERS:
        return key(stored)
    target: str | None = as_target(stored)
    return target


class Tagged(list[dict[str, Any]]):
    """An answer of spans."""


def facts(head: Head) -> dict[str, Any]:
    """Return a head's declaration as JSON."""
    return {"kind": head.kind, **asdict(head)}


def of(told: Mapping[str, Any]) -> Head:
    """Return the head that a table of the configuration, or a file, declares.

    >>> of({"kind": "regress", "low": 0, "high": 10})
    Regress(low=0, high=10, step=1.0)

    Raises
    ------
    ValueError, TypeError
        There is no such kind, or it takes other options.
    """
    options = dict(told)
    kind = options.pop("kind", Classify.kind)
    if kind not in KINDS:
        raise ValueError(f"no kind of head {kind!r}; there are: {', '.join(KINDS)}")
    return KINDS[kind](**options)


def _span(target: Any, field: str) -> dict[str, Any]:
    """Return a span, cleaned."""
    if not isinstance(target, Mapping):
        raise BadPayload(f"a span must be an object, not {type(target).__name__}", field=field, hint=SPAN)
    if unknown := sorted(set(target) - set(SPAN_FIELDS), key=str):
        raise BadPayload(f"a span has no field {str(unknown[0])[:80]!r}", field=field, hint=SPAN)
    for name in ("start", "end"):
        if type(target.get(name)) is not int:
            raise BadPayload(f"a span's {name} must be a whole number", field=f"{field}.{name}", hint=SPAN)
    start, end = target["start"], target["end"]
    if not 0 <= start < end:
        raise BadPayload(f"the span {start} to {end} has no character in it", field=field, hint=SPAN)
    told = {"text": target["text"]} if isinstance(target.get("text"), str) else {}
    kind = _name(target.get("type"), f"{field}.type", SPAN)
    if "\0" in kind:  # JSON escapes it, and a row's target would have it
        raise BadPayload("a type must not contain NUL", field=f"{field}.type", hint="take the character out")
    return {"start": start, "end": end, "type": kind, **told}


def _words(span: Mapping[str, Any], text: str, places: Sequence[Place], field: str) -> tuple[int, int]:
    """Return the words that a span is in."""
    start, end = span["start"], span["end"]
    if end > len(text):
        raise BadPayload(f"the span {_shown(span)} ends behind the text, which has {len(text)} characters", field=field,
                         hint="offsets are Unicode code points, neither bytes nor UTF-16 units")
    if span.get("text", text[start:end]) != text[start:end]:
        raise BadPayload(f"at {start} to {end} the text says {text[start:end][:80]!r}, not {span['text'][:80]!r}", field=field,
                         hint="offsets are Unicode code points, neither bytes nor UTF-16 units")
    found = [place for place, (first, behind) in enumerate(places) if first < end and behind > start]
    if len(places) == MOST and end > places[-1][1]:
        raise BadPayload(f"the span {_shown(span)} ends behind the {MOST} words that are read", field=field,
                         hint="divide the text")
    if not found:
        raise BadPayload(f"the span {_shown(span)} has no word in it", field=field, hint=SPAN)
    return found[0], found[-1] + 1


def _shown(span: Mapping[str, Any]) -> str:
    return f"{span['start']} to {span['end']} ({span['type'][:80]})"


def _name(target: Any, field: str, hint: str) -> str:
    """Return a label's name, cleaned."""
    if not isinstance(target, str):
        raise BadPayload(f"a label must be a string, not {type(target).__name__}", field=field, hint=hint)
    label = unicodedata.normalize("NFC", target.strip())
    if not label:
        raise BadPayload("a label must not be empty", field=field, hint="leave the field out when there is no label")
    if len(label) > LABEL_CHARACTERS:
        raise BadPayload(f"a label of {len(label)} characters; the limit is {LABEL_CHARACTERS}", field=field,
                         hint="a label is a name; put long text into the payload")
    return label
