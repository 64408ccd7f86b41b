"""Send what people should be asked to Argilla: records of a dataset, with our answer as suggestion.

The record's external id is the event's, so that a second delivery is the same record; by it a webhook brings the label back
(`docs/outputs.md`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from adaptd.interfaces import Send
from adaptd.outputs.http import HttpServer
from adaptd.records import Message


@dataclass(kw_only=True)
class Argilla(HttpServer):
    """The dataset, published, has a text field and a label question."""

    name: ClassVar[str] = "argilla"
    takes: ClassVar[Sequence[str]] = ("review",)

    dataset: str  # its id
    api_key: str = field(repr=False)  # by reference
    text: str = "text"  # the field's name
    label: str = "label"  # the question's name

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        """Look the question up; yield what adds records."""
        headers, where = {"X-Argilla-Api-Key": self.api_key}, f"/api/v1/datasets/{self.dataset}"
        questions = (await self.json("GET", f"{where}/questions", None, headers))["items"]
        question = next((one for one in questions if one["name"] == self.label), None)
        if question is None:
            there = ", ".join(one["name"] for one in questions) or "none"
            raise LookupError(f"the dataset has no question {self.label!r} (it has: {there})")

        async def send(messages: Sequence[Message]) -> None:
            records = [self._record(one.body, question) for one in messages]
            await self.json("PUT", f"{where}/records/bulk", {"items": records}, headers)

        yield send

    def _record(self, asked: Mapping[str, Any], question: Mapping[str, Any]) -> dict[str, Any]:
        record = {"external_id": asked["event"], "fields": {self.text: asked["text"]}}
        known = [one.get("value") for one in question.get("settings", {}).get("options") or []]
        if asked["label"] not in known:  # Argilla refuses what is not among the question's labels
            return record
        suggestion = {"question_id": question["id"], "value": asked["label"], "score": asked["confidence"], "type": "model",
                      "agent": f"adaptd {asked['domain']} {asked['version']}"}
        return {**record, "suggestions": [suggestion]}
