"""Find, load and build plugins. Built-ins come through the same door as everybody's.

Only distributions on the allow-list are imported, and the list is applied before anything is loaded. A plugin
that does not import stops the start with its name; it never half-loads.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar

import pluggy

from adaptd.config import DomainSettings
from adaptd.errors import BadConfig, PluginError
from adaptd.hookspecs import LearnerSpecs, Specs
from adaptd.interfaces import Domain

Group = Literal["adaptd", "adaptd.learner"]
BUILTIN: Mapping[Group, Sequence[str]] = {
    "adaptd": ("adaptd.text", "adaptd.numeric", "adaptd.feeds", "adaptd.outputs", "adaptd.gate", "adaptd.sinks"),
    "adaptd.learner": ("adaptd.model.encoder", "adaptd.model.image", "adaptd.model.audio", "adaptd.model.numeric",
                       "adaptd.model.words", "adaptd.strategies", "adaptd.policies"),
}
SPECS: Mapping[Group, type] = {"adaptd": Specs, "adaptd.learner": LearnerSpecs}
T = TypeVar("T")


def installed(group: Group) -> list[EntryPoint]:
    """List the entry points of a group without importing any of them."""
    return sorted(entry_points(group=group), key=lambda e: (e.dist.name if e.dist else "", e.name))


def load(group: Group, allow: Sequence[str]) -> pluggy.PluginManager:
    """Return a plugin manager with the built-ins and the allowed distributions of a group.

    Raises
    ------
    BadConfig
        An allowed distribution is not installed.
    PluginError
        It does not import, or implements an unknown hook.
    """
    manager = pluggy.PluginManager("adaptd")
    manager.add_hookspecs(SPECS[group])
    for module in BUILTIN[group]:
        manager.register(importlib.import_module(module), name=module)
    found = installed(group)
    if missing := set(allow) - {e.dist.name for g in SPECS for e in installed(g) if e.dist}:
        name = sorted(missing)[0]
        raise BadConfig(f"plugin {name!r} is on the allow-list but not installed", field="plugins.allow",
                        hint=f"pip install {name}, or take it off plugins.allow")
    for entry in found:
        if entry.dist and entry.dist.name in allow:
            _register(manager, entry)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"{error}", hint=f"hooks of this group: {_hooks(group)}") from error
    return manager


def _register(manager: pluggy.PluginManager, entry: EntryPoint) -> None:
    assert entry.dist is not None
    try:
        manager.register(entry.load(), name=entry.dist.name)
    except Exception as error:  # whatever a stranger's module raises at import
        raise PluginError(f"plugin {entry.dist.name!r} ({entry.value}) does not load: {error!r}",
                          hint="mend it, or take it off plugins.allow") from error


def _hooks(group: Group) -> list[str]:
    return [name for name in vars(SPECS[group]) if name.startswith("register_")]


def collect(manager: pluggy.PluginManager, hook: str) -> dict[str, type]:
    """Call one hook of every plugin by itself and return the classes by name.

    Raises
    ------
    PluginError
        An implementation failed, or two plugins give the same name.
    """
    classes: dict[str, type] = {}
    owners: dict[str, str] = {}
    for owner, cls in given(manager, hook):
        if cls.name in classes:
            raise PluginError(f"{hook}: {owner!r} and {owners[cls.name]!r} both give {cls.name!r}",
                              hint="take one of them off plugins.allow")
        classes[cls.name], owners[cls.name] = cls, owner
    return classes


def given(manager: pluggy.PluginManager, hook: str) -> Iterator[tuple[str, Any]]:
    """Yield each plugin's name with each class that it gives.

    Raises
    ------
    PluginError
        An implementation failed.
    """
    for impl in getattr(manager.hook, hook).get_hookimpls():
        try:
            classes = list(impl.function())
        except Exception as error:  # named, so that the operator knows whom to ask
            raise PluginError(f"plugin {impl.plugin_name!r} failed in {hook}: {error!r}") from error
        yield from ((impl.plugin_name, cls) for cls in classes)


def pick(classes: Mapping[str, type[T]], name: str, field: str) -> type[T]:
    """Return the class of that name; an unknown name is an error that lists the known ones."""
    if name not in classes:
        near = difflib.get_close_matches(name, classes, 1)
        raise BadConfig(f"{field}: unknown name {name!r}", field=field,
                        hint=(f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(sorted(classes))}")
    return classes[name]


def build(cls: type[T], options: Mapping[str, Any], field: str) -> T:
    """Make an instance from options; one that is wrong or missing is an error that lists the right ones."""
    taken = {name: p for name, p in inspect.signature(cls).parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    known = list(taken)
    if wrong := sorted(set(options) - set(known)):
        near = difflib.get_close_matches(wrong[0], known, 1)
        raise BadConfig(f"{field}.{wrong[0]}: unknown option", field=f"{field}.{wrong[0]}",
                        hint=(f"did you mean {near[0]!r}? " if near else "") + f"options: {', '.join(known) or 'none'}")
    if missing := [name for name, p in taken.items() if p.default is p.empty and name not in options]:
        raise BadConfig(f"{field}.{missing[0]}: it must be given", field=f"{field}.{missing[0]}",
                        hint=f"options: {', '.join(known)}")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise BadConfig(f"{field}: {error}", field=field, hint=f"options: {', '.join(known) or 'none'}") from error


def domain(kinds: Mapping[str, type], name: str, settings: DomainSettings) -> Domain:
    """Make a domain: its own class if there is one of that name, else the one its `kind` names."""
    kind = settings.kind or (name if name in kinds else "text")
    built: Domain = build(pick(kinds, kind, f"domains.{name}.kind"), settings.options, f"domains.{name}.options")
    return built


def describe(allow: Sequence[str]) -> list[dict[str, Any]]:
    """Describe every installed plugin, allowed or not, without importing those that are not."""
    rows: dict[str, dict[str, Any]] = {}
    for group in SPECS:
        for entry in installed(group):
            if entry.dist is None:
                continue
            row = rows.setdefault(entry.dist.name, {"name": entry.dist.name, "version": entry.dist.version,
                                                    "allowed": entry.dist.name in allow, "provides": []})
            row["provides"].append(f"{group}: {entry.name}")
    return list(rows.values())
