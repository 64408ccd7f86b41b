"""What the elements of a body claim: who speaks, and that it may teach. One that claims too much refuses the whole body.

Nothing is journalled of it then: a client that speaks for another is broken or hostile, and no half of it is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adaptd.grants import Grant

SOURCE = "http"  # of events that name none, from a token that is bound to none


def speaker(grant: Grant) -> str:
    """Return the source of what names none."""
    return grant.source or SOURCE


def check_inputs(grant: Grant, inputs: Sequence[Any], *, explain: bool) -> None:
    """Refuse another's source; and evidence, which shows what others have sent, to who may not read it."""
    if explain:
        grant.check_role(("label", "operate"), "an answer with evidence")
    for at, one in _objects(inputs):
        grant.check_source(one.get("source"), f"inputs[{at}].source")


def check_events(grant: Grant, events: Sequence[Any]) -> None:
    """Refuse another's source, and labels of who may not teach."""
    if grant.source is None and grant.has(("label",)) and grant.has(("ingest",)):
        return  # whatever they claim: they need not be read for it
    for labelled in {one.get("label") is not None for one in events if isinstance(one, dict)}:
        grant.check_role(("label",) if labelled else ("ingest",), f"an event with{'' if labelled else 'out'} a label")
    if grant.source is not None:
        for at, one in _objects(events):
            grant.check_source(one.get("source"), f"[{at}].source")


def check_feedback(grant: Grant, labels: Sequence[Any]) -> None:
    """Refuse another teacher. `source` is the event's here, which is named and not spoken for."""
    for at, one in _objects(labels):
        grant.check_source(one.get("teacher"), f"[{at}].teacher")


def _objects(elements: Sequence[Any]) -> list[tuple[int, Mapping[str, Any]]]:
    return [(at, one) for at, one in enumerate(elements) if isinstance(one, dict)]  # others are rejected one by one
