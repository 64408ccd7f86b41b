"""The peers, on the same vectors in the same run: what a team would use instead.

All but naive Bayes read the encoder's last layer, as they do in practice. `Cron` is the real rival: a linear model
refitted on the whole history every so often.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from adaptd.bench.streams import Ints
from adaptd.errors import MissingExtra
from adaptd.numeric import Numeric

Floats = npt.NDArray[np.float32]
UNKNOWN = -1  # the answer of a peer that has learned nothing


@dataclass(frozen=True)
class Inputs:
    """What peers read: the last layer's vectors, of unit length, and the texts."""

    vectors: Floats
    texts: Sequence[Any]  # or payloads

    def take(self, rows: Ints) -> Inputs:
        """Return some rows."""
        return Inputs(self.vectors[rows], [self.texts[row] for row in rows])


class Peer(Protocol):
    """Learns and answers; classes are numbers."""

    def learn(self, inputs: Inputs, classes: Ints) -> None:
        """Learn rows, in order."""
        ...

    def predict(self, inputs: Inputs) -> Ints:
        """Answer rows."""
        ...

    def refit(self) -> None:
        """Do what is done at night."""
        ...


class Instant:
    """A peer that has nothing to do at night."""

    def refit(self) -> None:
        """Nothing."""


class Cron:
    """Cached embeddings and a linear model (logistic regression) refitted on all history; silent before."""

    def __init__(self, *, every: int | None, strength: float) -> None:
        self._every = every
        self._strength = strength  # C of scikit-learn
        self._vectors: list[Floats] = []
        self._classes: list[Ints] = []
        self._new = 0
        self._model: Any = None

    def learn(self, inputs: Inputs, classes: Ints) -> None:
        """Store rows; refit when it is time."""
        self._vectors.append(inputs.vectors)
        self._classes.append(classes)
        self._new += len(classes)
        if self._every is not None and self._new >= self._every:
            self.refit()

    def refit(self) -> None:
        """Fit on all history."""
        linear_model = importlib.import_module("sklearn.linear_model")  # half a second, paid by who uses it
        self._new = 0
        classes = np.concatenate(self._classes)
        if len(np.unique(classes)) > 1:
            fresh = linear_model.LogisticRegression(C=self._strength, max_iter=200)
            self._model = fresh.fit(np.concatenate(self._vectors), classes)

    def predict(self, inputs: Inputs) -> Ints:
        """Answer with the last model."""
        if self._model is None:
            return np.full(len(inputs.texts), UNKNOWN, dtype=np.int64)
        answers: Ints = self._model.predict(inputs.vectors)
        return answers


class Frozen(Cron):
    """The same, fitted once and never again."""

    def refit(self) -> None:
        """Fit, if that was not done."""
        if self._model is None:
            super().refit()


class NearestMean(Instant):
    """The class whose mean is nearest by cosine (Mensink et al., 2013)."""

    def __init__(self) -> None:
        self._sums = np.zeros((0, 0), dtype=np.float64)
        self._counts = np.zeros(0, dtype=np.int64)

    def learn(self, inputs: Inputs, classes: Ints) -> None:
        """Add to the sums."""
        top = max(int(classes.max()) + 1, len(self._counts))
        grown = np.zeros((top, inputs.vectors.shape[1]))
        grown[:len(self._sums)] = self._sums if len(self._sums) else 0
        self._sums = grown
        self._counts = np.concatenate([self._counts, np.zeros(top - len(self._counts), dtype=np.int64)])
        np.add.at(self._sums, classes, inputs.vectors)
        np.add.at(self._counts, classes, 1)

    def predict(self, inputs: Inputs) -> Ints:
        """Answer with the nearest mean."""
        if not self._counts.any():
            return np.full(len(inputs.texts), UNKNOWN, dtype=np.int64)
        means = self._sums / np.maximum(np.linalg.norm(self._sums, axis=1, keepdims=True), 1e-12)
        return self._best(inputs.vectors @ means.T)

    def _best(self, scores: npt.NDArray[np.float64]) -> Ints:
        scores[:, self._counts == 0] = -np.inf
        answers: Ints = scores.argmax(1)
        return answers


class StreamingLda(NearestMean):
    """Class means and one shared covariance (Hayes & Kanan, 2020), solved when asked."""

    SHRINKAGE = 1e-3

    def __init__(self) -> None:
        super().__init__()
        self._outer: npt.NDArray[np.float64] | None = None
        self._solved: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None

    def learn(self, inputs: Inputs, classes: Ints) -> None:
        """Add to means and scatter."""
        super().learn(inputs, classes)
        x = inputs.vectors.astype(np.float64)
        self._outer = x.T @ x + (0 if self._outer is None else self._outer)
        self._solved = None

    def predict(self, inputs: Inputs) -> Ints:
        """Answer with the best discriminant."""
        if self._outer is None:
            return np.full(len(inputs.texts), UNKNOWN, dtype=np.int64)
        if self._solved is None:
            self._solved = self._solve(self._outer)
        weights, bias = self._solved
        return self._best(inputs.vectors @ weights + bias)

    def _solve(self, outer: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        means = self._sums / np.maximum(self._counts, 1)[:, None]
        within = (outer - (means.T * self._counts) @ means) / self._counts.sum()
        ridge = self.SHRINKAGE * within.diagonal().mean() + 1e-9
        weights = np.linalg.solve((1 - self.SHRINKAGE) * within + ridge * np.eye(len(within)), means.T)
        return weights, -0.5 * (means.T * weights).sum(0)


class Neighbours(Instant):
    """The k nearest of all examples vote, weighted by similarity and, with a half-life, by recency."""

    def __init__(self, k: int, *, half_life: float | None) -> None:
        self._k, self._half_life = k, half_life
        self._vectors = np.zeros((0, 0), dtype=np.float32)
        self._classes = np.zeros(0, dtype=np.int64)
        self._size = 0

    def learn(self, inputs: Inputs, classes: Ints) -> None:
        """Remember rows."""
        end = self._size + len(classes)
        if end > len(self._classes):
            capacity = max(1024, 2 * end)
            vectors = np.zeros((capacity, inputs.vectors.shape[1]), dtype=np.float32)
            known = np.zeros(capacity, dtype=np.int64)
            vectors[:self._size] = self._vectors[:self._size] if self._size else 0
            known[:self._size] = self._classes[:self._size]
            self._vectors, self._classes = vectors, known
        self._vectors[self._size:end], self._classes[self._size:end] = inputs.vectors, classes
        self._size = end

    def predict(self, inputs: Inputs) -> Ints:
        """Let the nearest vote."""
        if not self._size:
            return np.full(len(inputs.texts), UNKNOWN, dtype=np.int64)
        starts = range(0, len(inputs.texts), 256)
        return np.concatenate([self._vote(inputs.vectors[start:start + 256]) for start in starts])

    def _vote(self, vectors: Floats) -> Ints:
        similarity = vectors @ self._vectors[:self._size].T
        k = min(self._k, self._size)
        nearest = np.argpartition(similarity, -k, axis=1)[:, -k:]
        near = np.take_along_axis(similarity, nearest, 1)
        weight = np.exp((near - near.max(1, keepdims=True)) / 0.1)
        if self._half_life is not None:
            weight = weight * 0.5 ** ((self._size - nearest) / self._half_life)
        votes = np.zeros((len(vectors), int(self._classes[:self._size].max()) + 1))
        np.add.at(votes, (np.arange(len(vectors))[:, None], self._classes[nearest]), weight)
        answers: Ints = votes.argmax(1)
        return answers


class NaiveBayes(Instant):
    """River's bag of words and multinomial naive Bayes, on the text."""

    def __init__(self) -> None:
        try:
            river = importlib.import_module("river.naive_bayes"), importlib.import_module("river.feature_extraction")
        except ImportError:
            raise MissingExtra("river is not installed", hint="pip install river, or leave naive-bayes out") from None
        self._model: Any = river[1].BagOfWords() | river[0].MultinomialNB(alpha=0.1)

    def learn(self, inputs: Inputs, classes: Ints) -> None:
        """Count words."""
        for text, label in zip(inputs.texts, classes.tolist(), strict=True):
            self._model.learn_one(text, label)

    def predict(self, inputs: Inputs) -> Ints:
        """Answer with the likeliest class."""
        answers = (self._model.predict_one(text) for text in inputs.texts)
        return np.array([UNKNOWN if answer is None else answer for answer in answers], dtype=np.int64)


class Tree(Instant):
    """River's learner of numbers: an adaptive Hoeffding tree (Bifet & Gavaldà, 2009), or a forest (Gomes et al., 2017)."""

    def __init__(self, module: str, name: str) -> None:
        try:
            self._model: Any = getattr(importlib.import_module(f"river.{module}"), name)(seed=0)
        except ImportError:
            raise MissingExtra("river is not installed", hint="pip install river, or leave the trees out") from None

    def learn(self, inputs: Inputs, classes: Ints) -> None:
        """Learn the numbers, one by one."""
        for payload, label in zip(inputs.texts, classes.tolist(), strict=True):
            self._model.learn_one(Numeric().example(payload).features, label)

    def predict(self, inputs: Inputs) -> Ints:
        """Answer with the likeliest class."""
        answers = (self._model.predict_one(Numeric().example(payload).features) for payload in inputs.texts)
        return np.array([UNKNOWN if answer is None else answer for answer in answers], dtype=np.int64)
