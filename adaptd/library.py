"""Library: a domain's folder of documents, searched with every event by what it means; the answer cites file and line.

Where: beside the learner. The folder is the truth, as the configuration is: nothing of it is learned, no version holds it, a
rollback does not touch it. It is looked at every few seconds; what has changed is encoded behind the predictions, and searched
from then on.

How near is near is read off the documents: the first sentence of a passage stands for a question, the rest of it for what
answers it (the inverse cloze task; Lee, Chang and Toutanova, 2019). A passage is cited when it is at least as similar as all but
a share `miss` of such pairs are; of pairs too few to tell, as the least similar one is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from adaptd.config import Documents
from adaptd.documents import Piece, files, passages
from adaptd.errors import NotReady
from adaptd.model.abstain import fit_limit
from adaptd.records import Example, Passage, Report

log = logging.getLogger(__name__)
PAIRS = 200  # of sentence and rest, at most
CHUNK = 64  # passages encoded in one request
Floats = npt.NDArray[np.float32]
Encode = Callable[[Sequence[Example]], Tensor]  # float16 [n, dim]


@dataclass(frozen=True)
class Shelf:
    """What is searched: passages, their vectors [n, dim], and the similarity from which on one is cited."""

    pieces: Sequence[Piece] = ()
    vectors: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    limit: float = 0.0


class Library:
    """One domain's documents."""

    def __init__(self, domain: str, settings: Documents, folder: Path, encode: Encode, report: Report,
                 also: Callable[[str], Sequence[str]] = lambda text: ()) -> None:
        self._domain = domain
        self._settings = settings
        self._folder = folder
        self._encode = encode
        self._report = report
        self._also = also  # what else the labels are called that a text names
        self._seen: dict[str, tuple[int, int]] = {}  # name -> what tells that a file has changed
        self._read: dict[str, Sequence[Piece]] = {}
        self._vectors: dict[str, Floats] = {}  # of what was encoded once, by what was read
        self._shelf = Shelf()

    def facts(self) -> dict[str, object]:
        """Return what there is, for `status`."""
        shelf = self._shelf
        return {"folder": str(self._folder), "files": len({piece.file for piece in shelf.pieces}), "passages": len(shelf.pieces),
                "limit": round(shelf.limit, 4)}

    def find(self, vectors: Sequence[Tensor]) -> list[list[Passage]]:
        """Return the passages that are near to each event's vector, the nearest first; equal ones in the order of files."""
        shelf = self._shelf
        if not shelf.pieces or not vectors:
            return [[] for _ in vectors]
        similar = np.stack([vector.float().numpy() for vector in vectors]) @ shelf.vectors.T
        best = np.argsort(-similar, axis=1, kind="stable")[:, :self._settings.count]
        return [[Passage(**vars(shelf.pieces[i]), similarity=float(row[i])) for i in places.tolist() if row[i] >= shelf.limit]
                for row, places in zip(similar, best, strict=True)]

    def look(self) -> None:
        """Read what has changed since the last look, encode it, and search it from then on."""
        try:
            found = files(self._folder)
            now = {name: (at.st_mtime_ns, at.st_size) for name, at in ((name, file.stat()) for name, file in found.items())}
        except OSError as error:
            self._report("documents", f"{self._domain}: the folder of documents cannot be read: {error}",
                         "what was read before is searched; mend the folder, or [domains.NAME.documents] folder")
            return
        if now == self._seen:
            return
        changed = [name for name in now if now[name] != self._seen.get(name)]
        self._read = {name: self._pieces(found[name], name) if name in changed else self._read[name] for name in now}
        try:
            self._shelf, self._seen = self._stocked(), now
        except NotReady:  # the daemon is stopping
            return
        log.info("%s: %d passages of %d files", self._domain, len(self._shelf.pieces), len(now), extra={"action": "documents"})

    def _pieces(self, file: Path, name: str) -> Sequence[Piece]:
        try:
            return passages(file, name)
        except (OSError, ValueError) as error:
            self._report("document_unread", f"{self._domain}: {name} is not read: {error}", "mend it, or take it out")
            return ()

    def _stocked(self) -> Shelf:
        """Return all passages with their vectors; what is read as before is not encoded again."""
        pieces = [piece for name in sorted(self._read) for piece in self._read[name]]
        if len(pieces) > self._settings.passages:
            self._report("documents", f"{self._domain}: {len(pieces)} passages; the first {self._settings.passages} are searched",
                         "raise [domains.NAME.documents] passages, or put less into the folder")
            del pieces[self._settings.passages:]
        pairs = _pairs(pieces)
        self._vectors = self._encoded(dict.fromkeys([*map(self._words, pieces), *(text for pair in pairs for text in pair)]))
        alike = np.array([self._vectors[one] @ self._vectors[rest] for one, rest in pairs], np.float64)
        vectors = np.stack([self._vectors[self._words(piece)] for piece in pieces]) if pieces else Shelf().vectors
        return Shelf(pieces, vectors, max(0.0, fit_limit(alike, self._settings.miss), alike.min(initial=1.0) if pairs else 0.0))

    def _words(self, piece: Piece) -> str:
        """Return what is encoded of a passage: behind its own words what else its labels are called."""
        return "\n".join([piece.read, *([", ".join(also)] if (also := self._also(piece.read)) else [])])

    def _encoded(self, texts: Mapping[str, None]) -> dict[str, Floats]:
        made = {text: self._vectors[text] for text in texts if text in self._vectors}
        missing = [text for text in texts if text not in made]
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start:start + CHUNK]
            made |= zip(chunk, self._encode([Example(text=text) for text in chunk]).float().numpy(), strict=True)
        return made


def _pairs(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Return first sentences and the rests of their passages, spread over all."""
    long = [sentences for piece in pieces if len(sentences := piece.sentences()) > 1]
    return [(sentences[0], "\n".join(sentences[1:])) for sentences in long[::-(-len(long) // PAIRS) or 1]]
