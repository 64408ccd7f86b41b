"""adaptd: a daemon that keeps a model current with its stream without forgetting.

This is the plugin author's API. The tree reads as the event's path::

    feeds/ → ingest → journal → predict ─────────────► (answer) ──► learn → adapt → evaluate → gate → registry
                                  └ model/: encoder → attention over memory → decoder     promote / rollback
"""

from adaptd.errors import BadPayload
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Classify, Domain, FeedItem
from adaptd.records import Evidence, Example, HeadAnswer, Paired, Prediction, Verdict

__version__ = "0.1.0"
__all__ = ["BadPayload", "Classify", "Domain", "Evidence", "Example", "FeedItem", "HeadAnswer", "Paired", "Prediction",
           "Verdict", "hookimpl"]
