"""The hooks. Each returns classes; adaptd builds them from the configuration and knows who gave what.

Two entry-point groups are two specs: `adaptd` (must import fast, loaded by daemon and command line) and
`adaptd.learner` (may import torch, loaded only where torch already is).
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from adaptd.interfaces import AlertSink, Domain, Encoder, Feed, Gate, MemoryPolicy, Observer, Output, Strategy

hookspec = pluggy.HookspecMarker("adaptd")
hookimpl = pluggy.HookimplMarker("adaptd")


class Specs:
    """Hooks of the entry-point group `adaptd`."""

    @hookspec
    def register_domains(self) -> Iterable[type[Domain]]:  # type: ignore[empty-body]
        """Return the domain classes this plugin offers; `name` is the key in the configuration."""

    @hookspec
    def register_feeds(self) -> Iterable[type[Feed]]:  # type: ignore[empty-body]
        """Return the feed classes this plugin offers; `[feeds.X] kind = name` uses one."""

    @hookspec
    def register_outputs(self) -> Iterable[type[Output]]:  # type: ignore[empty-body]
        """Return the output classes this plugin offers; `[outputs.X] kind = name` uses one."""

    @hookspec
    def register_gates(self) -> Iterable[type[Gate]]:  # type: ignore[empty-body]
        """Return the gate classes this plugin offers; `[gate] kind = name` uses one."""

    @hookspec
    def register_observers(self) -> Iterable[type[Observer]]:  # type: ignore[empty-body]
        """Return the observer classes this plugin offers; `[observers.X] kind = name` uses one."""

    @hookspec
    def register_alert_sinks(self) -> Iterable[type[AlertSink]]:  # type: ignore[empty-body]
        """Return the alert sink classes this plugin offers; `[alerts.X] kind = name` uses one."""


class LearnerSpecs:
    """Hooks of the entry-point group `adaptd.learner`."""

    @hookspec
    def register_encoders(self) -> Iterable[type[Encoder]]:  # type: ignore[empty-body]
        """Return the encoder classes this plugin offers; `[encoders.X] kind = name` uses one."""

    @hookspec
    def register_strategies(self) -> Iterable[type[Strategy]]:  # type: ignore[empty-body]
        """Return the strategy classes this plugin offers; `[adapt] strategy = name` uses one."""

    @hookspec
    def register_memory_policies(self) -> Iterable[type[MemoryPolicy]]:  # type: ignore[empty-body]
        """Return the policies of a full memory that this plugin offers; `[memory] policy = name` uses one."""
