"""Send what people should be asked to Label Studio: tasks of a project, with our answer as their prediction.

The task's data has the text and the event's id, by which a webhook brings the label back (`docs/outputs.md`). Label Studio
knows no id of ours: a task that is sent again after a crash is there twice, and its label counts once.
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
class LabelStudio(HttpServer):
    """The project's configuration has a text and its choices: <Text name="text" value="$text"/>, <Choices name="label" …>."""

    name: ClassVar[str] = "labelstudio"
    takes: ClassVar[Sequence[str]] = ("review",)

    project: int
    token: str = field(repr=False)  # by reference: a personal access token, or a legacy one
    text: str = "text"  # the name of the <Text>, and of its value
    label: str = "label"  # the name of the <Choices>

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        """Yield what imports tasks."""

        async def send(messages: Sequence[Message]) -> None:
            tasks = [self._task(one.body) for one in messages]
            await self.json("POST", f"/api/projects/{self.project}/import", tasks, await self._login())

        yield send

    async def _login(self) -> Mapping[str, str]:
        """Return the header; a personal access token, which has two dots, buys one for minutes."""
        if self.token.count(".") != 2:
            return {"Authorization": f"Token {self.token}"}
        bought = await self.json("POST", "/api/token/refresh", {"refresh": self.token}, {})
        return {"Authorization": f"Bearer {bought['access']}"}

    def _task(self, question: Mapping[str, Any]) -> dict[str, Any]:
        data = {self.text: question["text"], "adaptd_event": question["event"], "adaptd_domain": question["domain"]}
        if not isinstance(question["label"], str):
            return {"data": data}
        guess = {"from_name": self.label, "to_name": self.text, "type": "choices", "value": {"choices": [question["label"]]}}
        version = f"adaptd {question['domain']} {question['version']}"
        return {"data": data, "predictions": [{"model_version": version, "score": question["confidence"], "result": [guess]}]}
