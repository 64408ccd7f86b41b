"""Publish: what the tables say was answered, decided and is wrong goes to the configured outputs, at least once.

Each output has a task of its own, which reads small pages, sends them, and moves its place behind the other side's
acknowledgement. A kill in between sends a page again: every message has an id that stays the same. An output that fails is tried
again, later and later, and named in `problems`; it holds nothing else up.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import Engine, update

from adaptd import outbox
from adaptd import tables as t
from adaptd.alerts import key_of
from adaptd.config import OutputSettings
from adaptd.db import Writer
from adaptd.errors import Busy, StoreFailed
from adaptd.history import act
from adaptd.interfaces import Output, Send
from adaptd.outbox import PAGE, Place
from adaptd.records import Message, Problem

log = logging.getLogger(__name__)
Json = Mapping[str, Any]
POLL_S = 0.25  # between two looks into the tables, when there was nothing
PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
SEND_S = 120.0  # a batch that takes longer has failed
LOOK_S = 2.0  # between two looks at what is wrong
SETTLED_S = 60.0  # after a start, before which nothing is called over: what is wrong is found again by and by
ASK_S, OPEN = 20.0, 100  # between two questions to review, and how many of its questions may be without a label
FAILED = "output_failed"


class Publisher:
    """One output. `wrong` says what is wrong now, `ask` what to ask a person about in a domain."""

    def __init__(self, name: str, output: Output, settings: OutputSettings, domains: Mapping[int, str], reader: Engine,
                 writer: Writer, ask: Callable[[str, int], Json]) -> None:
        self.name = name
        self._output = output
        self._what = frozenset(settings.what)
        self._domains = domains
        self._reader = reader
        self._writer = writer
        self._ask = ask
        self.wrong: Callable[[], Sequence[Json]] = list
        self._go = asyncio.Event()
        self._again = asyncio.Event()  # what failed is tried now
        self._place = Place(predictions=0, verdicts=0)  # up to which was read
        self._kept = self._place  # up to which the store knows
        self._sent = 0
        self._failure: Problem | None = None
        self._started, self._look_at, self._ask_at = time.monotonic(), 0.0, 0.0
        self._asked_up_to: tuple[int, int] | None = None  # the newest answer then, and how many questions were open
        self.errors = 0
        self.beat = time.monotonic()

    def state(self) -> str:
        """Say whether it runs, is paused or fails."""
        return "failing" if self._failure else "running" if self._go.is_set() else "paused"

    def status(self) -> dict[str, Any]:
        """Return state, offset, lag, errors and how many messages were acknowledged."""
        with self._reader.connect() as connection:
            newest = outbox.newest(connection)
        streams = [name for name in ("predictions", "verdicts") if name in self._what]
        return {"state": self.state(), "offset": {name: getattr(self._place, name) for name in streams},
                "lag": sum(max(0, getattr(newest, name) - getattr(self._place, name)) for name in streams),
                "errors": self.errors, "sent": self._sent}

    def problems(self) -> list[Problem]:
        """Return what is wrong for as long as it is."""
        return [self._failure] if self._failure else []

    async def pause(self, paused: bool, actor: str) -> None:
        """Pause or go on, durably; what fails is tried again at once."""

        def write(connection: Any) -> None:
            connection.execute(update(t.output).where(t.output.c.name == self.name).values(paused=int(paused)))
            act(connection, self._writer.last_seq, None, "output-pause" if paused else "output-resume", actor, self.name)

        await asyncio.wrap_future(self._writer.submit(write))
        self._go.clear() if paused else self._go.set()
        self._again.set()

    async def run(self) -> None:
        """Send for ever; only a cancelled task or a failed store ends it."""
        opened = await asyncio.wrap_future(self._writer.submit(lambda connection: outbox.opened(connection, self.name)))
        self._place, paused, self._sent = opened
        self._kept = self._place
        if not paused:
            self._go.set()
        pause = PAUSE_S
        while True:
            await self._go.wait()
            try:
                async with self._output.connected() as send:
                    while self._go.is_set():
                        done = await self._round(send)
                        self.beat, self._failure = time.monotonic(), None
                        if done:
                            pause = PAUSE_S
                        else:
                            await asyncio.sleep(POLL_S)
            except StoreFailed:
                raise
            except Exception as error:  # whatever an output raises: it is tried again, later and later
                self._failed(error)
                self._again.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._again.wait(), pause * (0.5 + random.random()))
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self._asked_up_to, self._ask_at = None, 0.0  # what was chosen may not have arrived: it is chosen again
        self.beat = time.monotonic()
        words = str(error) or type(error).__name__
        log.warning("output %s: %s", self.name, words, extra={"action": FAILED, "output": self.name})
        since = self._failure.since if self._failure else time.time()
        hint = getattr(error, "hint", "") or "it is tried again by itself; nothing is lost meanwhile"
        self._failure = Problem(code=FAILED, message=f"output {self.name}: {words}", since=since, hint=hint,
                                subject=f"output {self.name}")

    async def _round(self, send: Send) -> bool:
        """Send what there is, at most a page of each; say whether there was anything."""
        messages, place = await asyncio.to_thread(self._next)
        if messages:
            await asyncio.wait_for(send(messages), SEND_S)
        passed = place.predictions - self._kept.predictions  # of other domains
        if messages or place.told() != self._kept.told() or passed >= PAGE:
            sent = len(messages)
            await asyncio.wrap_future(self._writer.submit(lambda connection: outbox.keep(connection, self.name, place, sent)))
            self._kept, self._sent = place, self._sent + sent
        self._place = place
        return bool(messages) or passed >= PAGE

    # -- in a thread -------------------------------------------------------------------------------------------

    def _next(self) -> tuple[list[Message], Place]:
        """Return what is to be sent, and the place behind it."""
        messages: list[Message] = []
        place = self._place
        with self._reader.connect() as connection:
            if "predictions" in self._what:
                found, last = outbox.predictions(connection, place.predictions, self._domains)
                messages, place = messages + found, replace(place, predictions=last)
            if "verdicts" in self._what:
                found, last = outbox.verdicts(connection, place.verdicts, self._domains)
                messages, place = messages + found, replace(place, verdicts=last)
        if "alerts" in self._what and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            found, problems = self._alerts(place.problems)
            messages, place = messages + found, replace(place, problems=problems)
        if "review" in self._what and time.monotonic() >= self._ask_at:
            found, asked = self._questions(place.asked)
            messages, place = messages + found, replace(place, asked=asked)
        return messages, place

    def _alerts(self, told: Mapping[str, Any]) -> tuple[list[Message], Mapping[str, Any]]:
        """Return what is wrong and was not told, and what was told and is over; and what was told then."""
        now = time.time()
        present = {key_of(one): one for one in self.wrong() if (one["code"], one["subject"]) != (FAILED, f"output {self.name}")}
        over = [key for key in told if key not in present] if time.monotonic() - self._started > SETTLED_S else []
        found = [self._alert(key, "problem", one["since"], now, code=one["code"], message=one["message"], hint=one["hint"])
                 for key, one in present.items() if key not in told]
        found += [self._alert(key, "resolved", told[key]["since"], now, code=told[key]["code"]) for key in over]
        fresh = {key: {"code": one["code"], "since": one["since"]} for key, one in present.items() if key not in told}
        return found, {**{key: value for key, value in told.items() if key not in over}, **fresh}

    @staticmethod
    def _alert(key: str, state: str, since: float, at: float, **words: str) -> Message:
        return Message(id=f"{key}.{int(1000 * since)}.{state}", kind="alert", about=key,
                       body={"key": key, "state": state, "since": since, "at": at, **words})

    def _questions(self, asked: Sequence[str]) -> tuple[list[Message], Sequence[str]]:
        """Return what to ask people about, so that no more than `OPEN` questions wait for their label, and all that wait."""
        with self._reader.connect() as connection:
            still = outbox.open_questions(connection, asked)
            now = outbox.newest(connection).predictions, len(still)
        self._ask_at = time.monotonic() + ASK_S
        if len(still) >= OPEN or now == self._asked_up_to:  # no room, or nothing new to ask about and nothing was labelled
            return [], still
        try:
            found = [message for message in self._chosen() if message.about not in still][:OPEN - len(still)]
        except Busy:
            return [], still
        self._asked_up_to = now[0], len(still) + len(found)
        return found, [*still, *(message.about for message in found)]

    def _chosen(self) -> Iterator[Message]:
        for domain in self._domains.values():
            asked = self._ask(domain, OPEN)
            for one in asked["items"]:
                yield Message(id=f"question.{one['event']}", kind="question", about=one["event"],
                              body={"domain": domain, "version": asked["version"], **one})
