"""The rival: the model a cron job would have. The same encoder, the same labels, refitted each night."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from adaptd.demo.data import Row
from adaptd.errors import MissingExtra
from adaptd.model.encoder import Transformers
from adaptd.records import Example

STRENGTH = 10.0  # scikit-learn's C; 1 is the default and does worse on these vectors


class Cron:
    """Cached embeddings and a logistic regression that knows what was labelled before the last night."""

    def __init__(self, rows: Sequence[Row]) -> None:
        try:
            from sklearn.linear_model import LogisticRegression
            from threadpoolctl import threadpool_limits
        except ImportError:
            raise MissingExtra("scikit-learn, the rival's model, is not installed",
                               hint="pip install 'adaptd[demo]'") from None
        encoder = Transformers()
        encoder.load()
        began = time.monotonic()
        texts = list(dict.fromkeys(row.text for row in rows))
        vectors, _ = encoder.encode([Example(text=text) for text in texts])
        self.encoding_s = time.monotonic() - began
        self.encoded = len(texts)
        self.refits: list[dict[str, float]] = []
        self._vectors = vectors.float().numpy()
        self._places = {text: place for place, text in enumerate(texts)}
        self._rows: list[tuple[str, str, str]] = []  # text, label, source
        self._make, self._threads = LogisticRegression, threadpool_limits
        self._model: LogisticRegression | None = None

    def label(self, rows: Sequence[Row], source: str) -> None:
        """Put labels into the table that the next night reads."""
        self._rows += [(row.text, row.label, source) for row in rows]

    def strike(self, source: str) -> int:
        """Delete a source's rows from the table; the model shows it after the next night."""
        kept = [row for row in self._rows if row[2] != source]
        struck, self._rows = len(self._rows) - len(kept), kept
        return struck

    def night(self) -> float:
        """Refit on everything labelled; return the seconds it took."""
        if len({label for _, label, _ in self._rows}) < 2:
            return 0.0
        began = time.monotonic()
        with self._threads(1):  # several threads are ten times slower on a problem of this size
            self._model = self._make(C=STRENGTH, max_iter=1000).fit(
                self._of([text for text, _, _ in self._rows]), [label for _, label, _ in self._rows])
        took = time.monotonic() - began
        self.refits.append({"rows": len(self._rows), "seconds": round(took, 3)})
        return took

    def answer(self, texts: Sequence[str]) -> list[str | None]:
        """Answer as of the last night."""
        if self._model is None:
            return [None] * len(texts)
        return [str(label) for label in self._model.predict(self._of(texts))]

    def _of(self, texts: Sequence[str]) -> np.ndarray:
        return self._vectors[[self._places[text] for text in texts]]
