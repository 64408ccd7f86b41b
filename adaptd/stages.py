"""Stages: what each part tells of a piece of its work: which stage it was, when it began, and for whose requests.

A request that is traced has its trace in `traces`, a context variable; what is queued takes it along to another thread.
Usually nothing is traced, and the tuple is empty.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextvars import ContextVar
from typing import Protocol

Traces = tuple[Hashable, ...]  # what they are only `adaptd.tracing` knows
traces: ContextVar[Traces] = ContextVar("traces", default=())

# name -> what it is: the parts tell these, the metrics and the spans are named after them
STAGES = {
    "journal_wait": "an entry waits for the writer",
    "commit": "a group of entries is written and made durable",
    "inference_wait": "a prediction waits for the inference thread",
    "encode": "inputs that came together are encoded",
    "decode": "they are answered from one snapshot",
    "record": "answers are handed to the journal, after they went out",
    "encode_labels": "labelled events without a vector are encoded",
    "learn": "a block of labels is tested, learned and swapped in",
    "solve": "the ridge is solved again and swapped in",
}


class Told(Protocol):
    """Who is told that a stage is over. It must not raise, nor take long."""

    def __call__(self, stage: str, began: float, traces: Traces = (), events: Sequence[int] = ()) -> None:
        """Hear of a stage that ends now and began at a `time.monotonic()`; `events` are the seqs it was about."""
        ...


def unheard(stage: str, began: float, traces: Traces = (), events: Sequence[int] = ()) -> None:
    """Tell nobody."""
