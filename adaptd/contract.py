"""The contract suite over what an installed plugin gives: `adaptd plugins check`.

Each class is made with its defaults and put to the check of its kind in `adaptd.testing`. Nothing here imports torch; a
plugin of the group `adaptd.learner` may.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from adaptd import plugins, testing
from adaptd.errors import AdaptdError, BadConfig, NotFound
from adaptd.interfaces import AlertSink, Encoder, Feed, Gate, MemoryPolicy, Observer, Strategy

SLOW = ("torch", "transformers", "faiss", "avalanche")  # what a plugin of the fast group must not import
Result = Literal["passed", "failed", "untried"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one check."""

    kind: str
    name: str
    result: Result
    message: str = ""


def _shape(protocol: type) -> Callable[[type], None]:
    return lambda cls: testing.check_shape(cls, protocol)


def _made(protocol: type, check: Callable[[Any], None]) -> Callable[[type], None]:
    def run(cls: type) -> None:
        testing.check_shape(cls, protocol)
        check(plugins.build(cls, {}, "its options"))

    return run


CHECKS: Mapping[plugins.Group, Mapping[str, tuple[str, Callable[[Any], None]]]] = {  # hook: kind and check
    "adaptd": {
        "register_domains": ("domain", testing.check_domain),
        "register_feeds": ("feed", _shape(Feed)),
        "register_gates": ("gate", _made(Gate, testing.check_gate)),
        "register_alert_sinks": ("alert sink", _shape(AlertSink)),
        "register_observers": ("observer", _shape(Observer)),
    },
    "adaptd.learner": {
        "register_encoders": ("encoder", _shape(Encoder)),
        "register_strategies": ("strategy", _shape(Strategy)),
        "register_memory_policies": ("memory policy", _made(MemoryPolicy, testing.check_policy)),
    },
}


def check(name: str) -> list[Finding]:
    """Check all that an installed plugin gives; it is named by its distribution, or by an entry point of it.

    Raises
    ------
    NotFound
        No such plugin is installed.
    """
    entries = {group: plugins.installed(group) for group in CHECKS}
    known = {e.dist.name: e.dist.name for found in entries.values() for e in found if e.dist}
    known |= {e.name: e.dist.name for found in entries.values() for e in found if e.dist and e.name not in known}
    if name not in known:
        raise NotFound(f"no plugin {name!r} is installed", field="NAME",
                       hint=f"pip install it; installed: {', '.join(sorted(set(known.values()))) or 'none'}")
    owner, found = known[name], list[Finding]()
    for group in CHECKS:
        if any(e.dist and e.dist.name == owner for e in entries[group]):
            found += _group(group, owner)
    return found or [Finding(kind="plugin", name=owner, result="failed", message="no hook of it gives anything")]


def _group(group: plugins.Group, owner: str) -> Iterator[Finding]:
    """Yield the findings of one entry-point group."""
    before = set(sys.modules)
    try:
        manager = plugins.load(group, [owner])
    except AdaptdError as error:
        yield Finding(kind="plugin", name=owner, result="failed", message=_words(error))
        return
    if group == "adaptd" and (slow := sorted(set(SLOW) & set(sys.modules) - before)):
        yield Finding(kind="plugin", name=owner, result="failed",
                      message=f"it imports {', '.join(slow)}: import that where it is used, or offer it in adaptd.learner")
    for hook, (kind, run) in CHECKS[group].items():
        try:
            plugins.collect(manager, hook)  # two of one name
            mine = [cls for by, cls in plugins.given(manager, hook) if by == owner]
        except AdaptdError as error:
            yield Finding(kind=kind, name=owner, result="failed", message=_words(error))
            continue
        yield from (_one(kind, cls, run) for cls in mine)


def _one(kind: str, cls: type, run: Callable[[Any], None]) -> Finding:
    name = str(getattr(cls, "name", cls.__name__))
    try:
        run(cls)
    except AssertionError as error:
        return Finding(kind=kind, name=name, result="failed", message=str(error))
    except BadConfig as error:  # it cannot be made without options: that is no fault
        return Finding(kind=kind, name=name, result="untried", message=_words(error))
    except Exception as error:  # whatever a stranger's code raises
        return Finding(kind=kind, name=name, result="failed", message=f"the check ended with {error!r}")
    return Finding(kind=kind, name=name, result="passed")


def _words(error: AdaptdError) -> str:
    return f"{error}" + (f" ({error.hint})" if error.hint else "")
