"""Label Studio's exports JSON and JSON-MIN of text classification: each annotation is an event, in the file's order.

The annotator is its source, so that quarantine can tell one who contradicts the others. Its id is made of project, task
and annotation, so a later export of the same project adds only what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptd.errors import BadFile
from adaptd.imports import Row

Json = Mapping[str, Any]
BESIDE = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "project", "agreement"}  # of JSON-MIN
AGAIN = "export it as JSON or JSON-MIN, or name another --format"
MAP = "--map text=FIELD,label=CONTROL"


class _Bad(Exception):
    """Why a task or an annotation is no event, and the cure."""


def rows(file: Path, kind: str, fields: Mapping[str, str]) -> Iterator[Row]:
    """Read an export; `fields` may name the data's field with the text and the control (`from_name`) with the label."""
    for number, task in enumerate(_tasks(file), 1):
        if not isinstance(task, dict):
            yield Row(str(number), error="not a task (each element of the list is a JSON object)")
        elif isinstance(task.get("data"), dict):
            yield from _full(number, task, fields)
        else:
            yield _row(str(number), lambda task=task: _minimal(task, fields))


def _tasks(file: Path) -> list[Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{file}: not JSON: {error}", hint=AGAIN) from None
    if not isinstance(found, list):
        raise BadFile(f"{file}: no list of tasks", hint=AGAIN)
    return found


def _full(number: int, task: Json, fields: Mapping[str, str]) -> Iterator[Row]:
    given = task.get("annotations")
    done = [one for one in given if isinstance(one, dict) and not one.get("was_cancelled")] if isinstance(given, list) else []
    if not done:
        yield _row(str(number), lambda: {"text": _text(task["data"], fields), **_id(task)})
    for place, annotation in enumerate(done, 1):
        where = str(number) if len(done) == 1 else f"{number} annotation {place}"
        yield _row(where, lambda annotation=annotation: {
            "text": _text(task["data"], fields), "label": _label(annotation, fields), **_id(task, annotation.get("id")),
            **_by(annotation.get("completed_by"), annotation.get("created_at"))})


def _row(where: str, make: Any) -> Row:
    try:
        return Row(where, make())
    except _Bad as error:
        return Row(where, error=str(error))


def _text(data: Json, fields: Mapping[str, str]) -> str:
    """Return the text: the field asked for, else `text`, else the only string."""
    if (name := fields.get("text")) is not None:
        if not isinstance(data.get(name), str):
            raise _Bad(f"data has no text {name!r} (it has: {', '.join(data)})")
        return str(data[name])
    strings = [name for name, value in data.items() if isinstance(value, str)]
    if "text" not in strings and len(strings) != 1:
        raise _Bad(f"data has {len(strings)} texts: {', '.join(strings) or 'none'} (say which: {MAP})")
    return str(data["text"] if "text" in strings else data[strings[0]])


def _label(annotation: Json, fields: Mapping[str, str]) -> str:
    """Return the one choice of the control asked for, else of the only control."""
    given = annotation.get("result")
    wanted = fields.get("label")
    found = {str(one.get("from_name")): one["value"].get("choices") for one in given if isinstance(one, dict)
             and isinstance(one.get("value"), dict) and "choices" in one["value"]} if isinstance(given, list) else {}
    if wanted is None and len(found) > 1:
        raise _Bad(f"choices of several controls: {', '.join(found)} (say which: {MAP})")
    name = next(iter(found), None) if wanted is None else wanted
    if name not in found:
        raise _Bad(f"no choices{f' of {name!r}' if name else ''} in the annotation (only choices are labels of a text)")
    return _one(found[name])


def _one(choices: Any) -> str:
    if isinstance(choices, str):
        return choices
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], str):
        return choices[0]
    count = len(choices) if isinstance(choices, list) else 0
    raise _Bad(f"{count} choices (a text has one label; leave the others out)")


def _minimal(task: Json, fields: Mapping[str, str]) -> Json:
    """Read a task of JSON-MIN, where data and choices stand side by side."""
    own = {name: value for name, value in task.items() if name not in BESIDE}
    label = fields.get("label")
    text = _text({name: value for name, value in own.items() if name != label}
                 if label or "text" in own or "text" in fields else own, fields)
    if label is None:
        others = [name for name, value in own.items() if value != text]
        if len(others) != 1:
            raise _Bad(f"{len(others)} fields may be the label: {', '.join(others) or 'none'} (say which: {MAP})")
        label = others[0]
    choices = own.get(label)
    chosen = choices.get("choices") if isinstance(choices, dict) else choices
    return {"text": text, "label": _one(chosen), **_id(task, task.get("annotation_id")),
            **_by(task.get("annotator"), task.get("created_at"))}


def _id(task: Json, annotation: Any = None) -> Json:
    if task.get("id") is None:
        return {}
    known = [task.get("project"), task["id"], annotation]
    return {"id": "label-studio:" + ":".join(str(one) for one in known if one is not None)}


def _by(annotator: Any, at: Any) -> Json:
    """Name the annotator and the time."""
    if isinstance(annotator, dict):
        annotator = annotator.get("email") or annotator.get("id")
    named = {} if annotator is None else {"source": annotator if isinstance(annotator, str) else f"annotator-{annotator}"}
    return named | ({"time": at} if isinstance(at, str) else {})
