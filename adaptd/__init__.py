"""adaptd: a daemon that keeps a model current with its stream without forgetting.

This is the plugin author's API, and `Client`, the way to a running daemon. The tree reads as the event's path::

    feeds/ → ingest → journal → predict ─────────────► (answer) ──► learn → adapt → evaluate → gate → registry
                                  └ model/: encoder → attention over memory → decoder     promote / rollback
"""

from typing import TYPE_CHECKING, Any

from adaptd.errors import BadPayload
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Classify, Domain, FeedItem
from adaptd.records import Alert, Evidence, Example, HeadAnswer, Message, Paired, Prediction, Verdict

if TYPE_CHECKING:
    from adaptd.client import Client as Client

__version__ = "0.1.0"
__all__ = ["Alert", "BadPayload", "Classify", "Client", "Domain", "Evidence", "Example", "FeedItem", "HeadAnswer", "Message",
           "Paired", "Prediction", "Verdict", "hookimpl"]


def __getattr__(name: str) -> Any:
    """Import the client when it is asked for: who only writes a plugin has no use for it."""
    if name == "Client":
        from adaptd.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
