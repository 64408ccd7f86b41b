"""The generator: `python -m adaptd.generator`, which writes a domain's texts: lines of JSON in, lines of JSON out.

In: first which domain it is (`domain`, `kind`, `options`, `plugins`, `parent_pid`), then `{"briefs": [...]}` again and again, and
`{"weights": ...}` where others than before are to be written with: a safetensors file in base64, or null.
Out: `{"ready": true}`, then `{"written": [...]}`, one for each brief, and `{"refused": null}`, or why the model writes as it is;
or `{"error": {"message", "hint"}}` where it could not be made ready, and it ends. What the plugin prints goes to standard error.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from adaptd import plugins
from adaptd.config import DomainSettings
from adaptd.errors import AdaptdError, Conflict
from adaptd.interfaces import Domain, Generator, Trainable
from adaptd.process import be_a_quiet_child
from adaptd.records import Brief, Remembered, Written

log = logging.getLogger(__name__)
NICE = 5  # behind those who answer within milliseconds, before those whom nobody waits for
Say = Callable[[Mapping[str, Any]], None]


def main() -> int:
    """Be ready, then write until nobody asks any more."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(told: Mapping[str, Any]) -> None:
        out.write(json.dumps(told) + "\n")
        out.flush()

    asked = open(0, encoding="utf-8")
    job = json.loads(asked.readline())
    try:
        be_a_quiet_child(job["parent_pid"], NICE)
        generator = domain(job).generator()
        generator.load()
    except AdaptdError as error:
        say({"error": error.body()})
        return 1
    say({"ready": True})
    for line in asked:
        told = json.loads(line)
        if "weights" in told:
            say({"refused": refused(generator, None if told["weights"] is None else base64.b64decode(told["weights"]))})
        else:
            say({"written": [asdict(one) for one in written(generator, [_brief(one) for one in told["briefs"]])]})
    return 0


def domain(job: Mapping[str, Any]) -> Domain:
    """Build the domain as the daemon does."""
    kinds = plugins.collect(plugins.load("adaptd", job["plugins"]), "register_domains")
    return plugins.domain(kinds, job["domain"], DomainSettings(kind=job["kind"], options=job["options"]))


def refused(generator: Generator, weights: bytes | None) -> Mapping[str, Any] | None:
    """Have texts be written with weights from now on; say why they are written by the model as it is, where they are."""
    if not isinstance(generator, Trainable):
        gone = Conflict("this generator is none that is trained", hint="it was when they were: adapt again when it is")
        return None if weights is None else gone.body()
    try:
        generator.adopt(weights)
    except Exception as error:  # a plugin may raise anything, and texts are written still
        log.exception("weights could not be taken")
        generator.adopt(None)
        other = Conflict(f"they could not be taken: {error!a:.300}", hint="adapt again, or go back: adaptd rollback")
        return (error if isinstance(error, AdaptdError) else other).body()
    return None


def written(generator: Generator, briefs: Sequence[Brief]) -> list[Written]:
    """Write texts together; where that fails, or gives what is none, each by itself, so that one costs no other."""
    try:
        found = [_checked(one) for one in generator.write(briefs)]
        if len(found) != len(briefs):
            raise ValueError(f"{len(found)} texts for {len(briefs)} briefs")
        return found
    except Exception as error:  # a plugin may raise anything
        if len(briefs) > 1:
            return [one for brief in briefs for one in written(generator, [brief])]
        log.exception("a text could not be written")
        return [Written(text=None, reason=f"it could not be written: {error!a:.300}")]


def _checked(one: Written) -> Written:
    """Return what a plugin has written as it is sent and stored; raise TypeError or ValueError where it cannot be."""
    for name, value in (("text", one.text), ("reason", one.reason)):
        if not isinstance(value, str | None):
            raise TypeError(f"{name} must be a string or None, not {type(value).__name__}")
        (value or "").encode()  # half of a surrogate pair is no character
    confidence = float(one.confidence)
    if not 0.0 <= confidence <= 1.0:
        raise ValueError(f"confidence must be from 0 to 1, not {confidence}")
    return Written(text=one.text, confidence=confidence, reason=one.reason)


def _brief(told: Mapping[str, Any]) -> Brief:
    return Brief(text=told["text"], remembered=[Remembered(**one) for one in told["remembered"]])


if __name__ == "__main__":
    sys.exit(main())
