"""What a daemon sends to, in this process: an HTTP server that keeps what is posted to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """Keeps every request; answers with `status`, and the document of its path, if there is one."""

    status: int = 200
    documents: Mapping[str, Any] = field(default_factory=dict)
    taken: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)  # path, headers, body

    def __enter__(self) -> Receiver:
        taken, receiver = self.taken, self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                taken.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                answer = json.dumps(receiver.documents[self.path]).encode() if self.path in receiver.documents else b""
                self.send_response(receiver.status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"
