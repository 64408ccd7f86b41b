"""Reload: SIGHUP reads the configuration again. What can change while the daemon runs does; the rest is named, and waits.

A configuration that is wrong changes nothing: the old one stays in force, and `problems` says what is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from adaptd import config, plugins, rules
from adaptd.assembly import Assembly
from adaptd.config import Settings
from adaptd.host import log_to_stderr
from adaptd.paths import Paths

log = logging.getLogger(__name__)
LIVE = ("adapt", "probation", "rules")  # of a domain: read each time they are wanted
SCHEDULED = {"every", "enabled"}  # of `adapt`: what the scheduler was told at the start
HINT = "the old configuration stays in force; mend it, then systemctl reload adaptd (or kill -HUP)"


def reload(now: Settings, paths: Paths, parts: Assembly) -> Settings:
    """Read the configuration and put in force what can be; return what is in force.

    Raises
    ------
    AdaptdError
        It is wrong; nothing has changed.
    """
    wanted, _ = config.load(paths.config)
    domains = {name: old.model_copy(update={part: getattr(wanted.domains[name], part) for part in LIVE})
               if name in wanted.domains else old for name, old in now.domains.items()}
    for name, settings in domains.items():  # refused here rather than at the next adaptation
        kind: type[Any] = plugins.pick(parts.strategies, settings.adapt.strategy, f"domains.{name}.adapt.strategy")
        plugins.build(kind, settings.adapt.options, f"domains.{name}.adapt.options")
    ruled = {name: rules.of(parts.domains[name].domain, name, settings.rules) for name, settings in domains.items()}
    force = now.model_copy(update={"log": wanted.log, "domains": domains})
    for name, settings in domains.items():
        parts.domains[name].adaptation.settings = settings.adapt
        parts.domains[name].probation.settings = settings.probation
        parts.domains[name].rules = ruled[name]
    log_to_stderr(wanted.log)
    applied, waiting = list(differing(now, force)), [*differing(force, wanted), *_rescheduled(now, force)]
    log.warning("reloaded: %s; %s", f"now in force: {', '.join(applied)}" if applied else "nothing new is in force",
                f"a restart is needed for: {', '.join(waiting)}" if waiting else "nothing waits for a restart",
                extra={"action": "reload"})
    return force


def _rescheduled(now: Settings, force: Settings) -> Iterator[str]:
    for name in force.domains:
        if any(getattr(now.domains[name].adapt, key) != getattr(force.domains[name].adapt, key) for key in SCHEDULED):
            yield f"the schedule of domains.{name}.adapt"


def differing(one: Settings, other: Settings) -> Iterator[str]:
    """Yield the keys, dotted, whose values differ; values are not told, as some are secrets."""
    yield from _differing(one.model_dump(), other.model_dump(), "")


def _differing(one: Any, other: Any, key: str) -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted({*one, *other}):
            yield from _differing(one.get(name), other.get(name), f"{key}.{name}" if key else str(name))
    elif one != other:
        yield key


