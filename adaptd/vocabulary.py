"""Vocabulary: what is known of labels beside their examples: other names, what is broader, what is related.

Where: a file that the configuration names, SKOS in RDF or a CSV table, read at the start. With it

- a label that is taught by another of its names is learned as the one label that it is, and with `closed` any other is refused;
- an answer shows the path from the broadest label, and one that is less than `sure` backs off to the nearest broader label
  that is: ``p(broader) = sum p(narrower)`` over the scores that the answer names (so it is at least that);
- a passage of the domain's documents that names a label is found by its other names and its related labels, too
  (`adaptd.library`).

Like a rule it is no part of a version, and nothing that was learned changes with it.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from adaptd.config import VocabularySettings
from adaptd.errors import AdaptdError, BadConfig, BadPayload
from adaptd.heads import Classify
from adaptd.imports import skos
from adaptd.interfaces import Domain
from adaptd.records import HeadAnswer

BETWEEN = "|"  # of several names in a cell of a table
WORD = re.compile(r"\w")


@dataclass(frozen=True, kw_only=True)
class Concept:
    """What is said of one label."""

    label: str
    names: Sequence[str] = ()
    broader: str | None = None
    related: Sequence[str] = ()


@dataclass(frozen=True)
class Vocabulary:
    """The concepts of one domain's head, by label."""

    head: str
    concepts: Mapping[str, Concept]
    sure: float
    closed: bool

    @classmethod
    def of(cls, domain: Domain, name: str, settings: VocabularySettings, folder: Path) -> Self | None:
        """Read the vocabulary that the configuration names; None where it names none.

        Raises
        ------
        BadConfig
            It cannot be read, names no head, or something in it contradicts itself.
        """
        if settings.file is None:
            return None
        field = f"domains.{name}.vocabulary"
        head = settings.head or (next(iter(domain.heads)) if len(domain.heads) == 1 else "")
        if head not in domain.heads:
            raise BadConfig(f"{field}.head: no head {head!r}" if head else f"{field}: it names no head", field=f"{field}.head",
                            hint=f"known: {', '.join(sorted(domain.heads))}")
        if not isinstance(domain.heads[head], Classify):
            raise BadConfig(f"{field}.head: {head!r} answers with something else than one label", field=f"{field}.head",
                            hint="a vocabulary is of a head that answers with one")
        file = folder / settings.file
        try:
            read = _table(file) if file.suffix.lower() in (".csv", ".tsv") else _graph(file)
            concepts = {concept.label: concept for concept in read}
        except (AdaptdError, OSError, ValueError) as error:
            raise BadConfig(f"{field}.file: {error}", field=f"{field}.file",
                            hint="SKOS (.ttl, .nt, .rdf), or a CSV with the columns label, parent, synonyms, related") from None
        made = cls(head, concepts, settings.sure, settings.closed)
        made._check(field)
        return made

    def _check(self, field: str) -> None:
        """Refuse a name that two labels have, a broader label that is none, and a circle of them."""
        owners: dict[str, str] = {}
        for concept in self.concepts.values():
            for name in (concept.label, *concept.names):
                if (owner := owners.setdefault(_folded(name), concept.label)) != concept.label:
                    raise BadConfig(f"{field}: {name!r} names {owner!r} and {concept.label!r}", field=field,
                                    hint="a name leads to one label")
            seen, at = {concept.label}, concept
            while at.broader is not None:
                if at.broader in seen:
                    raise BadConfig(f"{field}: {at.broader!r} is broader than itself", field=field, hint="break the circle")
                if at.broader not in self.concepts:
                    raise BadConfig(f"{field}: {at.label!r} has the broader {at.broader!r}, which is no label", field=field,
                                    hint="give it a row, or a skos:Concept, of its own")
                seen.add(at.broader)
                at = self.concepts[at.broader]

    @cached_property
    def _labels(self) -> Mapping[str, str]:
        return {_folded(name): one.label for one in self.concepts.values() for name in (one.label, *one.names)}

    def named(self, label: str, field: str) -> str:
        """Return the label that a name stands for; another label is itself, or refused where the vocabulary is closed."""
        found = self._labels.get(_folded(label))
        if found is None and self.closed:
            near = difflib.get_close_matches(_folded(label), self._labels, 1)
            raise BadPayload(f"{label!r} is no label of the vocabulary", field=field,
                             hint=f"did you mean {self._labels[near[0]]!r}?" if near else "add it to the vocabulary's file")
        return found or label

    def path(self, label: str) -> list[str]:
        """Return the labels from the broadest down to this one."""
        found, at = [label], self.concepts.get(label)
        while at is not None and at.broader is not None:
            found.insert(0, at.broader)
            at = self.concepts[at.broader]
        return found

    def applied(self, answers: Mapping[str, HeadAnswer],
                withheld: Callable[[str, float], str | None]) -> Mapping[str, HeadAnswer]:
        """Return the answers with the path of the label, or of the broader one that is sure."""
        answer = answers[self.head]
        return {**answers, self.head: self._applied(answer, lambda confidence: withheld(self.head, confidence))}

    def _applied(self, answer: HeadAnswer, withheld: Callable[[float], str | None]) -> HeadAnswer:
        if not answer.scores or (answer.label is None and withheld(answer.confidence) is None):
            return answer  # nothing is learned yet, or the event fits nothing: no broader label either
        best = max(answer.scores, key=lambda label: answer.scores[label])
        path = self.path(best)
        if answer.label is not None and (answer.confidence >= self.sure or len(path) == 1):
            return dataclasses.replace(answer, path=path if len(path) > 1 else ())
        for length in range(len(path) - 1, 0, -1):
            broad = path[length - 1]
            sum_ = min(1.0, sum(score for label, score in answer.scores.items() if broad in self.path(label)))
            if sum_ >= self.sure and withheld(sum_) is None:
                return dataclasses.replace(answer, label=broad, confidence=sum_, reason=None, path=path[:length], instead_of=best)
        return answer

    def also(self, text: str) -> list[str]:
        """Return what else the labels are called that a text names, and what is related to them."""
        found: dict[str, None] = {}
        folded = _folded(text)
        for name, label in self._labels.items():
            if _names(name, folded):
                concept = self.concepts[label]
                found |= dict.fromkeys((concept.label, *concept.names, *concept.related))
        return [name for name in found if not _names(_folded(name), folded)]


def _names(name: str, text: str) -> bool:
    """Say whether a text has a name as words of its own; where words are not parted, anywhere."""
    at = text.find(name)
    while at >= 0:
        before, after = text[at - 1:at], text[at + len(name):at + len(name) + 1]
        if not (_joins(before, name[0]) or _joins(name[-1], after)):
            return True
        at = text.find(name, at + 1)
    return False


def _joins(one: str, other: str) -> bool:
    return bool(one and other and one.isascii() and other.isascii() and WORD.match(one) and WORD.match(other))


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())


def _table(file: Path) -> Iterator[Concept]:
    """Read a table: label, parent, synonyms, related; several names in a cell are parted by |."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, dialect="excel-tab" if file.suffix.lower() == ".tsv" else "excel")
        if "label" not in (rows.fieldnames or ()):
            raise ValueError(f"{file} has no column 'label'")
        for row in rows:
            if label := (row["label"] or "").strip():
                yield Concept(label=label, names=_cells(row.get("synonyms")), broader=(row.get("parent") or "").strip() or None,
                              related=_cells(row.get("related")))


def _cells(cell: str | None) -> tuple[str, ...]:
    return tuple(part for one in (cell or "").split(BETWEEN) if (part := one.strip()))


def _graph(file: Path) -> Iterator[Concept]:
    """Read a SKOS vocabulary."""
    for label, names, broader, related in skos.relations(file):
        yield Concept(label=label, names=names, broader=broader, related=related)
