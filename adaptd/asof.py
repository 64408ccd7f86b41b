"""As of: the state of a domain at a moment, or of a version, read from a store beside its daemon; nothing is encoded.

Where: above restore, for what looks at another state than the live one: `fork` and `export`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from adaptd import moments, plugins, registry, restore
from adaptd import tables as t
from adaptd.bounds import Bounds
from adaptd.config import DomainSettings
from adaptd.heads import Classify
from adaptd.heads import Head as Kind
from adaptd.model.closed_form import RandomFeatures
from adaptd.model.network import Head, HeadOptions
from adaptd.moments import Moment
from adaptd.paths import Paths
from adaptd.refold import Rules, unreported
from adaptd.rows import lineage
from adaptd.state import State
from adaptd.stored import Stored, stored


@dataclass(frozen=True, kw_only=True)
class AsOf:
    """What a state is made of: rows as of it, the adapters that were live, the heads and folds of the nearest version."""

    connection: Connection
    domain: int
    base: restore.Base
    solved: bool  # those heads were solved over these rows
    files: Mapping[str, bytes]
    heads: Sequence[str]
    vectors: Stored
    policies: Mapping[str, type]
    domains: Mapping[str, type]

    @classmethod
    def at(cls, connection: Connection, paths: Paths, domain: int, moment: Moment, allow: Sequence[str]) -> AsOf:
        """Read what was live at a moment. Raises what `adaptd.moments.contents_of` does."""
        live = moment.version
        folded, contents = moments.contents_of(connection, moment, paths.versions)
        heads = connection.execute(select(t.learned.c.head).where(t.learned.c.domain == domain).distinct()
                                   .order_by(t.learned.c.head)).scalars().all()
        base = restore.Base(version=folded, intervals=lineage(connection, moment.branch, moment.seq), seq=moment.seq, own=True)
        kinds = plugins.collect(plugins.load("adaptd.learner", allow), "register_memory_policies")
        solved = folded.number == live.number and live.seq == moment.seq
        return cls(connection=connection, domain=domain, base=base, solved=solved, files=contents,
                   heads=heads, vectors=stored(connection, live.encoder, live.number), policies=kinds,
                   domains=plugins.collect(plugins.load("adaptd", allow), "register_domains"))

    @classmethod
    def of(cls, connection: Connection, paths: Paths, version: registry.Version, allow: Sequence[str]) -> AsOf:
        """Read a version; a candidate that was never live is taken over the rows that it was judged by.

        Raises
        ------
        CorruptFile
            Its adapter does not match its digest.
        Refused
            It is retired, or its files are gone.
        """
        registry.check_kept(version)
        moment = Moment(at=version.created, seq=version.seq, branch=version.branch, version=version)
        return cls.at(connection, paths, version.domain, moment, allow)

    def state(self, settings: DomainSettings) -> State:
        """Make the state, by these settings of learning and memory. Its ridge is to be solved unless the heads were `solved`."""
        name = self.connection.scalar(select(t.domain.c.name).where(t.domain.c.id == self.domain))
        declared = plugins.domain(self.domains, str(name), settings).heads
        heads = {head: self._head(settings, declared.get(head, Classify())) for head in self.heads}
        return restore.load_state(self.connection, self.domain, self.base, self.files, heads, self.vectors, settings.quarantine,
                                  unreported)

    def _head(self, settings: DomainSettings, kind: Kind) -> Head:
        learn, dim = settings.learn, self.vectors.dim
        head = Head(HeadOptions(dim=dim, features=learn.features, neighbours=settings.memory.neighbours, seed=learn.seed,
                                abstain_error=learn.abstain_error, out_of_scope=learn.out_of_scope, kind=kind),
                    RandomFeatures(dim, learn.features, learn.seed))
        limits = settings.memory.model_dump(include={"capacity", "per_class", "policy", "options"})
        head.bounded.rules = Rules(Bounds(through=0, limits=[(-1, limits)]), self.policies)
        head.bounded.read_from(self.vectors)
        return head
