"""POST each message to a URL; 2xx is the acknowledgement. Signed as Standard Webhooks has it, where there is a secret."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from adaptd import signing
from adaptd.interfaces import Send
from adaptd.outputs.http import HttpServer
from adaptd.records import Message


@dataclass(kw_only=True)
class WebhookUrl(HttpServer):
    """One after the other, in order; `webhook-id` is the message's id."""

    name: ClassVar[str] = "webhook"

    secret: str | None = field(default=None, repr=False)  # whsec_…, by reference
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    _key: bytes | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a secret that is none."""
        super().__post_init__()
        self._key = None if self.secret is None else signing.key(self.secret)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        """Yield what posts."""

        async def send(messages: Sequence[Message]) -> None:
            for one in messages:
                await self.request("POST", "", one.raw(), self._headers(one))

        yield send

    def _headers(self, message: Message) -> Mapping[str, str]:
        moment = str(int(time.time()))
        headers = {"Content-Type": "application/json", "webhook-id": message.id, "webhook-timestamp": moment}
        if self._key is not None:
            headers["webhook-signature"] = signing.signature(self._key, message.id, moment, message.raw())
        return {**headers, **self.headers}
