"""adaptd: a daemon that keeps a model current with its stream without forgetting.

This is the plugin author's API, and `Client`, the way to a running daemon. The tree reads as the event's path::

    feeds/ → ingest → journal → predict ─────────────► (answer) ──► learn → adapt → evaluate → gate → registry
                                  └ model/: encoder → attention over memory → decoder     promote / rollback
"""

from typing import TYPE_CHECKING, Any

from adaptd.errors import BadPayload
from adaptd.heads import Classify, Generate, Labels, Ordinal, Regress, Reply, Spans
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Domain, FeedItem, Generator, Observer, Ranker, Rule, Trainable
from adaptd.media import picture, sound
from adaptd.records import (
    Alert,
    Ask,
    Brief,
    Evidence,
    Example,
    HeadAnswer,
    Lesson,
    Message,
    Observed,
    Paired,
    Passage,
    Prediction,
    Problem,
    Ranked,
    Remembered,
    Sighting,
    Taught,
    Verdict,
    Written,
)

if TYPE_CHECKING:
    from adaptd.client import Client as Client

__version__ = "0.1.0"
__all__ = ["Alert", "Ask", "BadPayload", "Brief", "Classify", "Client", "Domain", "Evidence", "Example", "FeedItem", "Generate",
           "Generator", "HeadAnswer", "Labels", "Lesson", "Message", "Observed", "Observer", "Ordinal", "Paired", "Passage",
           "Prediction", "Problem", "Ranked", "Ranker", "Regress", "Remembered", "Reply", "Rule", "Sighting", "Spans", "Taught",
           "Trainable", "Verdict", "Written", "hookimpl", "picture", "sound"]


def __getattr__(name: str) -> Any:
    """Import the client when it is asked for: who only writes a plugin has no use for it."""
    if name == "Client":
        from adaptd.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
