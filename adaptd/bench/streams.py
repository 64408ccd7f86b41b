"""The protocols: in which order a set's rows come, and what is counted. Pure; nothing here knows of adaptd.

Class-incremental (three scenarios of van de Ven & Tolias, 2019): classes come in groups, each example once, and
the answer must choose among all classes seen so far. Prequential (Gama et al., 2013): every event is answered,
then learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
BATCH = 15  # labelled events that a class-incremental stream gives at once
FEW = (1, 5, 20)  # examples of a class that is new
SWAPPED = 10  # classes whose labels change half-way through a label drift
NEAR = 50  # events behind a change that are counted by themselves
GRADUAL = 3000  # events over which a gradual one comes
Drift = Literal["swap", "rename", "merge", "split", "gradual", "recurring", "none"]
DRIFTS: tuple[Drift, ...] = get_args(Drift)


@dataclass(frozen=True, kw_only=True)
class ClassIncremental:
    """Experiences of classes; a class's number is its place in the order of the stream."""

    classes: tuple[str, ...]  # in the order of the stream
    per: int  # classes of an experience
    train: Ints  # class number of each training row
    test: Ints
    experiences: tuple[Ints, ...]  # training rows, in the order in which they come

    def tests(self, experience: int) -> Ints:
        """Return the test rows of an experience's classes."""
        return np.flatnonzero(self.test // self.per == experience)

    def tests_until(self, experience: int) -> Ints:
        """Return the test rows of all classes up to an experience."""
        return np.flatnonzero(self.test // self.per <= experience)


def class_incremental(train: Sequence[str], test: Sequence[str], *, per: int, seed: int) -> ClassIncremental:
    """Order classes and rows by the seed.

    >>> stream = class_incremental(["a", "b", "c", "a"], ["c"], per=1, seed=0)
    >>> stream.classes, [e.tolist() for e in stream.experiences]
    (('c', 'b', 'a'), [[2], [1], [3, 0]])
    """
    names = sorted(set(train))
    order = np.random.RandomState(seed).permutation(len(names))
    classes = tuple(names[c] for c in order)
    number = {name: place for place, name in enumerate(classes)}
    rows = np.array([number[label] for label in train], dtype=np.int64)
    experiences = []
    for e in range(len(names) // per):
        mine = np.flatnonzero(rows // per == e)
        experiences.append(mine[np.random.RandomState(1000 * seed + e).permutation(len(mine))])
    return ClassIncremental(classes=classes, per=per, train=rows, experiences=tuple(experiences),
                            test=np.array([number.get(label, len(names)) for label in test], dtype=np.int64))


def few_shots(stream: ClassIncremental, seed: int) -> dict[int, Ints]:
    """Return, for 1, 5 and 20, so many random training rows of each class of the last experience."""
    random, last = np.random.RandomState(seed), len(stream.experiences) - 1
    classes = range(last * stream.per, (last + 1) * stream.per)
    rows = [np.flatnonzero(stream.train == c) for c in classes]
    return {n: np.concatenate([random.permutation(mine)[:n] for mine in rows]) for n in FEW}


@dataclass
class Accuracies:
    """``A[e, j]``: accuracy on the classes of experience j after experience e, among all classes seen."""

    sizes: Sequence[int]  # test rows of each experience
    matrix: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = np.full((len(self.sizes), len(self.sizes)), np.nan)

    def record(self, after: int, experience: int, right: Bools) -> None:
        """Enter the answers to one experience's test rows."""
        self.matrix[after, experience] = right.mean() if len(right) else np.nan

    def after(self, experience: int) -> float:
        """Return the accuracy over all test rows of the classes seen by then, in percent; nan where not measured."""
        n, row = np.array(self.sizes[:experience + 1]), self.matrix[experience, :experience + 1]
        return float(100 * (row * n).sum() / n.sum())

    @property
    def curve(self) -> list[float]:
        """Return the accuracy after each experience, in percent."""
        return [self.after(e) for e in range(len(self.sizes))]

    @property
    def forgetting(self) -> float:
        """Return the mean over earlier experiences of (best accuracy ever - last accuracy), in points.

        Only experiences that were measured before the last one count.
        """
        last, earlier = self.matrix[-1, :-1], self.matrix[:-1, :-1]
        known = ~np.isnan(earlier).all(axis=0)
        return float(100 * (np.nanmax(earlier[:, known], axis=0) - last[known]).mean()) if known.any() else 0.0

    def figures(self) -> dict[str, float]:
        """Return final and average accuracy in percent (nan where not all was measured), forgetting in points."""
        return {"final": self.curve[-1], "average": float(np.mean(self.curve)), "forgetting": self.forgetting}


@dataclass(frozen=True, kw_only=True)
class LabelDrift:
    """A stream in which ten classes are called otherwise from an event on."""

    rows: Ints  # training rows, in the order in which they come
    labels: tuple[str, ...]  # of each event
    drifting: Bools  # events of the ten classes
    begins: int

    def figures(self, right: Bools) -> dict[str, float]:
        """Return accuracy in percent: over all, and on the ten classes after the change, by thousands of events."""
        m, n = self.begins, len(right)
        windows = {"0-1k": (m, m + 1000), "1-3k": (m + 1000, m + 3000), "last 3k": (max(m, n - 3000), n)}
        drifting = {f"swapped {name}": percent(right[a:b][self.drifting[a:b]]) for name, (a, b) in windows.items()}
        return {"cumulative": percent(right), **drifting}


def label_drift(stream: ClassIncremental, seed: int, events: int, kind: Drift = "swap") -> LabelDrift:
    """Take training rows in random order; the labels of the first ten classes change.

    `swap`: from the middle on class c is called c + 1. `rename`: it has a name of its own that is new. `merge`: every second
    one is called as the one before it. `split`: until the middle it was. `gradual`: as a swap, more and more often over 3,000
    events. `recurring`: a swap in the second and in the last quarter. `none`: nothing changes.
    """
    random = np.random.RandomState(seed)
    rows = random.permutation(len(stream.train))[:events]
    classes, place = stream.train[rows], np.arange(len(rows))
    middle, ten = len(rows) // 2, min(SWAPPED, len(stream.classes))
    mine, late = classes < ten, place >= middle
    quarter = 4 * place // max(1, len(rows))
    moved = mine & {"swap": late, "rename": late, "merge": late & (classes % 2 == 1), "split": ~late & (classes % 2 == 1),
                    "gradual": random.uniform(size=len(rows)) < (place - middle) / GRADUAL, "recurring": quarter % 2 == 1,
                    "none": place < 0}[kind]
    names, other = np.array(stream.classes, dtype=object), np.arange(len(stream.classes))
    other[:ten] = (other[:ten] - 1 if kind in ("merge", "split") else other[:ten] + 1) % ten
    becomes = np.array([f"{name} (new)" for name in stream.classes], dtype=object) if kind == "rename" else names[other]
    return LabelDrift(rows=rows, labels=tuple(np.where(moved, becomes[classes], names[classes]).tolist()), drifting=mine,
                      begins=len(rows) // 4 if kind == "recurring" else middle)


def noisy(classes: Ints, count: int, seed: int, sources: int, share: float) -> Ints:
    """Return the classes with a share of those of the last source replaced by another of `count`; sources take turns.

    >>> noisy(np.zeros(10, dtype=np.int64), 3, 0, 5, 1.0).tolist()
    [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    """
    random = np.random.RandomState(seed)
    wrong = (np.arange(len(classes)) % sources == sources - 1) & (random.uniform(size=len(classes)) < share)
    return np.where(wrong, (classes + random.randint(1, count, len(classes))) % count, classes)


def blocks(rows: Ints, size: int) -> Iterator[Ints]:
    """Yield rows in blocks.

    >>> [b.tolist() for b in blocks(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    for start in range(0, len(rows), size):
        yield rows[start:start + size]


def percent(right: Bools) -> float:
    """Return the share of right answers in percent; nan of none."""
    return float(100 * right.mean()) if len(right) else float("nan")


def over_time(right: Bools) -> dict[str, float]:
    """Return accuracy in percent: cumulative and by quarter."""
    quarters = np.array_split(right, 4)
    return {"cumulative": percent(right), **{f"quarter {i}": percent(part) for i, part in enumerate(quarters, 1)}}


def behind(right: Bools, changes: Sequence[int]) -> dict[str, float]:
    """Return accuracy in percent: cumulative, over the first 50 events behind each change, and over the others behind the first.

    >>> behind(np.array([False] * 60 + [True] * 50 + [False] * 90), [60])
    {'cumulative': 25.0, 'behind a change': 100.0, 'later': 0.0}
    """
    place = np.arange(len(right))
    near = np.logical_or.reduce([(place >= at) & (place < at + NEAR) for at in changes])
    return {"cumulative": percent(right), "behind a change": percent(right[near]),
            "later": percent(right[~near & (place >= changes[0])])}


def moving(right: Bools, window: int) -> list[tuple[int, float]]:
    """Return (events so far, accuracy in percent of the last `window`), twice a window.

    >>> moving(np.array([True, True, False, False]), 2)
    [(2, 100.0), (3, 50.0), (4, 0.0)]
    """
    return [(end, percent(right[end - window:end])) for end in range(window, len(right) + 1, max(1, window // 2))]


def no_change(labels: Sequence[str] | Ints) -> Bools:
    """Answer each event with the label of the one before: the least that a stream's learner has to beat."""
    every = np.asarray(labels)
    return np.concatenate([[False], every[1:] == every[:-1]]).astype(bool)
