"""Opinion: rolling sentiment per entity and topic, and surges of negative opinion with the events that make them.

Looked at is what holds now: a text counts with the label that a person gave, however late or corrected, else with the answer. All
is worked out anew from the newest events, so a restart, a rollback or a forget leaves nothing behind.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import adaptd
from adaptd_finance.surge import Run, Surge

NEGATIVE = "negative"
VALUES = {NEGATIVE: -1, "neutral": 0, "positive": 1}
NAMED = 5  # events that an alert names; the figures have all
Key = tuple[str | None, str | None]  # entity and topic; None: all of them


@dataclass
class _Stream:
    """The events of an entity, or of all."""

    events: int = 0
    surges: dict[str | None, Surge] = field(default_factory=dict)  # by topic


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """Watches a domain with a topic and a sentiment. Alarms by chance come at most once in `events_per_false_alarm` events.

    Watched are, over all events, each topic's share of negative ones; over the events of an entity, the share of negative ones,
    and each topic's.
    """

    name: ClassVar[str] = "opinion"
    events_per_false_alarm: int = 5000  # on average, of all that is watched together
    rolling: int = 200  # newest events of an entity or topic that its sentiment is told of
    topic: str = "topic"  # the heads,
    sentiment: str = "sentiment"
    entity: str = "entity"  # and the payload's field

    def __post_init__(self) -> None:
        """Refuse what is no number of events."""
        if min(self.events_per_false_alarm, self.rolling) < 1:
            raise ValueError("events_per_false_alarm and rolling must be at least 1")

    def look(self, seen: Sequence[adaptd.Observed]) -> adaptd.Sighting:
        """Return rolling sentiment and surges, and a problem for each surge that goes on."""
        rolling: dict[Key, deque[int]] = {}
        streams: dict[str | None, _Stream] = {}
        alarms: dict[Key, list[tuple[adaptd.Observed, Run]]] = {}
        names = {topic for one in seen for topic in self._topics(one)}
        limit = math.log(self.events_per_false_alarm * (2 * len(names) + 1))  # so many tests see each event
        for one in seen:
            if (value := VALUES.get(str(one.labels.get(self.sentiment)))) is None:
                continue
            topics, entity = self._topics(one), self._entity(one)
            for key in [(entity, None), *((None, topic) for topic in topics), *((entity, topic) for topic in topics)]:
                if key != (None, None):
                    rolling.setdefault(key, deque(maxlen=self.rolling)).append(value)
            negative = set(topics) if value < 0 else set()
            for stream in dict.fromkeys((None, entity)):
                for key, run in self._watch(streams.setdefault(stream, _Stream()), stream, one, value < 0, negative, limit):
                    alarms.setdefault(key, []).append((one, run))
        going = {id(surge.run) for stream in streams.values() for surge in stream.surges.values()}
        surges = [self._surge(key, one, run, streams[key[0]], id(run) in going) for key, found in alarms.items()
                  for one, run in found]
        figures = {"entities": _sentiments(rolling, topics=False), "topics": _sentiments(rolling, topics=True), "surges": surges,
                   "events": len(seen), "events_per_false_alarm": self.events_per_false_alarm}
        return adaptd.Sighting(figures=figures, problems=[_problem(surge) for surge in surges if surge["going_on"]])

    def _topics(self, one: adaptd.Observed) -> tuple[str, ...]:
        topic = one.labels.get(self.topic)
        return (topic,) if isinstance(topic, str) else tuple(topic) if isinstance(topic, list) else ()

    def _entity(self, one: adaptd.Observed) -> str | None:
        found = one.payload.get(self.entity)
        return found if isinstance(found, str) and found else None

    @staticmethod
    def _watch(stream: _Stream, entity: str | None, one: adaptd.Observed, bad: bool, topics: set[str],
               limit: float) -> Iterator[tuple[Key, Run]]:
        """Let each test of a stream see an event; yield those that alarm."""
        asked: dict[str | None, bool] = {} if entity is None else {None: bad}
        asked |= {topic: False for topic, surge in stream.surges.items() if topic is not None and surge.run is not None}
        asked |= dict.fromkeys(topics, True)  # what is not asked and has no run stays as it is
        for topic, yes in asked.items():
            run = stream.surges.setdefault(topic, Surge()).see(one.event, yes, stream.events, limit)
            if run is not None:
                yield (entity, topic), run
        stream.events += 1

    @staticmethod
    def _surge(key: Key, one: adaptd.Observed, run: Run, stream: _Stream, going_on: bool) -> dict[str, Any]:
        return {"entity": key[0], "topic": key[1], "alarmed_at": one.at, "alarmed_by": one.event, "usual": round(run.usual, 4),
                "events": list(run.yeses), "going_on": going_on}


def _sentiments(rolling: dict[Key, deque[int]], *, topics: bool) -> list[dict[str, Any]]:
    """Return the rolling sentiment of what is about all entities (`topics`), or about one."""
    found = [(key, values) for key, values in rolling.items() if (key[0] is None) == topics]
    return [{**({} if topics else {"entity": entity}), "topic": topic, "events": len(values),
             "negative": round(sum(value < 0 for value in values) / len(values), 4),
             "mean": round(sum(values) / len(values), 4)} for (entity, topic), values in found]


def _problem(surge: dict[str, Any]) -> adaptd.Problem:
    what = " about ".join(str(part) for part in (surge["entity"], surge["topic"]) if part is not None)
    events = surge["events"]
    return adaptd.Problem(
        code="negative_opinion", subject=what, since=surge["alarmed_at"],
        message=f"negative opinion on {what} surges: {len(events)} events since {events[0]}, where at most {surge['usual']:.1%} "
                f"was usual; {', '.join(events[:NAMED])}{' …' if len(events) > NAMED else ''}",
        hint="look at them: adaptd explain EVENT; it is over when it is no more than usual, or has become usual")
