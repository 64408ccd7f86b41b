"""Forget on a running daemon: out of the tables, out of memory and sums, out of the files; then a certificate.

In the learner's thread behind its barrier. The transaction of `adaptd.erase` comes first and notes the rest; all that
follows can be done again, and the next start does it where a crash or a full disk was in the way. Sums lose the rows
exactly. Folds (trust, calibration, accuracy) cannot be subtracted from, so they are made again from the journal as it
is now. Answers go on meanwhile, as they were until the new snapshot is swapped in.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine

from adaptd import erase, registry, restore
from adaptd.adapt import Adaptation
from adaptd.db import Writer
from adaptd.journal import Journal
from adaptd.learn import Learner
from adaptd.model import files
from adaptd.model.attention import Adapter
from adaptd.paths import Paths
from adaptd.records import Erased, Report
from adaptd.refold import Refold, fold_outcomes
from adaptd.rows import Interval, births, lineage, replay, retaught, standing
from adaptd.selector import Selector
from adaptd.vectors import Vectors
from adaptd.versions import Versions

log = logging.getLogger(__name__)


class Forgetting:
    """What one domain does to forget."""

    def __init__(self, domain: int, name: str, learner: Learner, versions: Versions, adaptation: Adaptation, vectors: Vectors,
                 journal: Journal, writer: Writer, reader: Engine, paths: Paths, refold: Refold, encoder: str,
                 report: Report) -> None:
        self._domain = domain
        self._name = name
        self._learner = learner
        self._versions = versions
        self._adaptation = adaptation
        self._vectors = vectors
        self._journal = journal
        self._writer = writer
        self._reader = reader
        self._paths = paths
        self._refold = refold
        self._encoder = encoder
        self._report = report

    def forget(self, selector: Selector, reason: str, actor: str) -> dict[str, Any]:
        """Forget the events that are selected; return the certificate.

        Raises
        ------
        NotFound
            There is no such event.
        """
        with self._adaptation.halted(), self._versions.alone():
            certificate = self._learner.call(lambda: self._forget(selector, reason, actor)).result()
        return {**certificate, "asked": selector.asked()}

    def finish(self) -> None:
        """Do what an earlier forget has left to do; at start, once the learner runs."""
        with self._reader.connect() as connection:
            pending = erase.pending(connection, self._domain)
        if pending is not None:
            self._learner.call(lambda: self._finish(pending["files"], pending["actions"])).result()
            log.info("finished a forget of %s", self._name, extra={"action": "forget_finished"})

    # -- in the learner's thread ------------------------------------------------------------------------------

    def _forget(self, selector: Selector, reason: str, actor: str) -> dict[str, Any]:
        with self._subtracted(selector):
            erased = self._journal.forget(lambda c: erase.erase(c, self._domain, selector, reason, actor)).result()
        if not erased.events:
            return self._writer.submit(lambda c: erase.certify(c, [erased.action], {})).result()
        try:
            return self._after(erased)
        except BaseException as error:  # the tables have forgotten and memory has not: come up from the disk
            self._learner.on_failure(error)
            raise

    @contextmanager
    def _subtracted(self, selector: Selector) -> Iterator[None]:
        """Take evicted rows out of the sums while the store has their vectors still; put them back if nothing is erased."""
        with self._reader.connect() as connection:
            events = erase.find(connection, self._domain, selector)
        heads = [(head, head.bounded.of_events(events)) for head in self._learner.state.heads.values()]
        for head, rows in heads:
            head.bounded.retire(rows)
            head.sync()
        try:
            yield
        except BaseException:
            for head, rows in heads:
                head.bounded.revive(rows)
                head.sync()
            raise

    def _after(self, erased: Erased) -> dict[str, Any]:
        self._vectors.drop(erased.events)
        self._learner.state.trial = None  # the old champion may have been trained on what has gone
        with self._reader.connect() as connection:
            pending = erase.pending(connection, self._domain)
            live = registry.version(connection, registry.live(connection, self._domain).version)
        assert pending is not None
        if live.number != self._learner.state.version:
            self._answer_with(live)
        self._adaptation.last = None  # its reasons may name a label that has gone; the versions have what is left of them
        rows = [row for row, _, _ in erased.rows]
        return self._finish(pending["files"], pending["actions"], rows)

    def _answer_with(self, version: registry.Version) -> None:
        """Take the adapters of a version; the rows stay those of now."""
        contents = registry.read(self._paths.versions / str(version.number), version.files)
        if version.encoder != self._encoder:
            contents = {}
        for name, head in self._learner.state.heads.items():
            data = contents.get(f"{name}.adapter")
            head.adopt(Adapter() if data is None else files.parse_adapter(data, f"version {version.number}"))
        self._learner.state.version = version.number

    def _finish(self, files: Sequence[str], actions: Sequence[int], rows: Sequence[int] = ()) -> dict[str, Any]:
        """Bring memory, answers and files to what the tables say, then check, and strike the note."""
        erase.remove_files(self._paths, self._name, files)
        self._make_again(rows)
        undone = self._checkpoint() or self._writer.scrub().result()
        if undone is not None:
            self._report("forget_unfinished", f"{self._name}: {undone}", "the next start tries again; free some space")
        checks = self._checks(files) | {"disk": undone or self._writer.scrubbed}

        def write(connection: Connection) -> dict[str, Any]:
            if undone is None:
                erase.done(connection, self._domain)
            return erase.certify(connection, actions, {**checks, "tables": erase.left(connection, self._domain)})

        return self._writer.submit(write).result()

    def _make_again(self, rows: Sequence[int]) -> None:
        """Take rows out of the state, fold the outcomes of what is left, solve and serve it."""
        state = self._learner.state
        with self._reader.connect() as connection:
            live = registry.live(connection, self._domain)
            intervals = lineage(connection, live.branch, state.seq)
            born = {name: births(connection, self._domain, intervals, name) for name in state.heads}
            entries = replay(connection, self._domain, intervals, -1)
        for name, head in state.heads.items():
            head.forget(rows, born[name])
        self._evict_again(intervals)
        fold_outcomes(self._learner, entries)
        self._learner.solve()

    def _evict_again(self, intervals: Sequence[Interval]) -> None:
        """Evict what would have been evicted had the forgotten rows never come, and nothing else."""
        state = self._learner.state
        self._refold.up_to(state.seq)
        with self._reader.connect() as connection:
            for name, head in state.heads.items():
                load = functools.partial(restore.alive_rows, connection, self._domain, intervals, name, head, self._vectors)
                head.bounded.shelve(standing(connection, self._domain, intervals, name).evicted, load)
                head.trace(retaught(connection, self._domain, intervals, name))

    def _checkpoint(self) -> str | None:
        """Keep the state, so that a start need not make the folds again; return what went wrong."""
        with self._reader.connect() as connection:
            branch = registry.live(connection, self._domain).branch
        folder = self._paths.checkpoints / self._name
        try:
            restore.write_checkpoint(folder, self._domain, branch, self._encoder, self._learner.state)
        except OSError as error:
            return f"a checkpoint could not be written: {error}"
        return None

    def _checks(self, files: Sequence[str]) -> dict[str, Any]:
        """Return what the certificate says of memory and files."""
        heads = self._learner.state.heads
        return {
            "memory": {name: {"rows": head.memory.size, "indexed": len(head.keys)} for name, head in heads.items()},
            "files": {"removed": len(files), "left": sum((self._paths.versions / file).exists() for file in files)},
        }
