"""Peers that bring a library along: Avalanche's best method here, and adaptive-classifier. Each lives in a process of its own.

Both learn when an experience ends, as they are made to: rows wait until then (or, in a stream, until `every` have come).
"""

from __future__ import annotations

import importlib
import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptd.bench.peers import UNKNOWN, Inputs
from adaptd.bench.streams import Ints
from adaptd.errors import MissingExtra
from adaptd.modelfiles import MINILM, find

BUFFER, BATCH, LEARNING_RATE, SCALE = 1500, 15, 2e-3, 16.0  # of ER-ACE: one sensible setting, not searched


class ByExperience(ABC):
    """Keeps rows until an experience ends, then trains on them, once."""

    def __init__(self, every: int | None) -> None:
        self._every = every
        self._rows: list[tuple[Inputs, Ints]] = []
        self._known = False  # whether anything was trained on

    def learn(self, inputs: Inputs, classes: Ints) -> None:
        """Keep rows; train when there are enough."""
        self._rows.append((inputs, classes))
        if self._every is not None and sum(len(one) for _, one in self._rows) >= self._every:
            self.refit()

    def refit(self) -> None:
        """End the experience."""
        if self._rows:
            texts = [text for inputs, _ in self._rows for text in inputs.texts]
            vectors = np.concatenate([inputs.vectors for inputs, _ in self._rows])
            self._train(Inputs(vectors, texts), np.concatenate([classes for _, classes in self._rows]))
            self._rows, self._known = [], True

    def predict(self, inputs: Inputs) -> Ints:
        """Answer with what was trained."""
        return self._answer(inputs) if self._known else np.full(len(inputs.texts), UNKNOWN, dtype=np.int64)

    @abstractmethod
    def _train(self, inputs: Inputs, classes: Ints) -> None: ...

    @abstractmethod
    def _answer(self, inputs: Inputs) -> Ints: ...


class ErAce(ByExperience):
    """Avalanche's ER-ACE (Caccia et al., 2022) over a linear head on the frozen vectors, one epoch an experience."""

    def __init__(self, every: int | None) -> None:
        super().__init__(every)
        self._torch = importlib.import_module("torch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of QP solvers that this method does not use
            self._method = importlib.import_module("avalanche.training").ER_ACE
            self._models = importlib.import_module("avalanche.models")
        self._data = importlib.import_module("avalanche.benchmarks.utils")
        self._experience = importlib.import_module("avalanche.benchmarks").DatasetExperience
        random.seed(0)
        self._torch.manual_seed(0)
        self._learner: Any = None
        self._experiences = 0

    def _made(self, dim: int) -> Any:
        model = self._models.IncrementalClassifier(dim)
        return self._method(model=model, optimizer=self._torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0),
                            criterion=self._torch.nn.CrossEntropyLoss(), mem_size=BUFFER, batch_size_mem=BATCH,
                            train_mb_size=BATCH, train_epochs=1, evaluator=None)

    def _train(self, inputs: Inputs, classes: Ints) -> None:
        if self._learner is None:
            self._learner = self._made(inputs.vectors.shape[1])
        vectors, targets = self._torch.from_numpy(SCALE * inputs.vectors), classes.tolist()
        attributes = [self._data.DataAttribute(targets, "targets"),
                      self._data.DataAttribute([0] * len(targets), "targets_task_labels", use_in_getitem=True)]
        rows = self._data.TaskAwareSupervisedClassificationDataset(
            [list(zip(vectors, targets, strict=True))], data_attributes=attributes)
        experience = self._experience(dataset=rows, current_experience=self._experiences)
        experience.classes_in_this_experience = sorted(set(targets))
        self._learner.train([experience], [])
        self._experiences += 1

    def _answer(self, inputs: Inputs) -> Ints:
        self._learner.model.eval()
        with self._torch.inference_mode():
            answers: Ints = self._learner.model(self._torch.from_numpy(SCALE * inputs.vectors)).argmax(1).numpy()
        return answers


class AdaptiveClassifier(ByExperience):
    """The package adaptive-classifier as it comes, one call an experience, fed with the vectors that all peers read."""

    def __init__(self, every: int | None) -> None:
        super().__init__(every)
        try:
            package = importlib.import_module("adaptive_classifier")
        except ImportError:
            raise MissingExtra("adaptive-classifier is not installed",
                               hint="pip install 'adaptd[peers]', or leave it out") from None
        self._torch = importlib.import_module("torch")
        self._vectors: dict[str, Any] = {}
        self._model = package.AdaptiveClassifier(str(find(MINILM, download=False)), device="cpu", use_onnx=False)
        self._model._get_embeddings = self._looked_up

    def _looked_up(self, texts: Sequence[str]) -> list[Any]:
        return [self._vectors[text].clone() for text in texts]

    def _seen(self, inputs: Inputs) -> Sequence[str]:
        self._vectors |= dict(zip(inputs.texts, self._torch.from_numpy(inputs.vectors), strict=True))
        return inputs.texts

    def _train(self, inputs: Inputs, classes: Ints) -> None:
        self._model.add_examples(list(self._seen(inputs)), [str(one) for one in classes.tolist()])

    def _answer(self, inputs: Inputs) -> Ints:
        said = self._model.predict_batch(list(self._seen(inputs)), k=1)
        return np.array([int(one[0][0]) for one in said], dtype=np.int64)
