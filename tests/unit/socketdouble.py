"""What answers HTTP on a unix socket as a test says."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Reply = tuple[int, Any, dict[str, str]] | None  # status, document or bytes, headers; None: closed without an answer


class SocketDouble:
    """Answers each request, (method, path, body), by `reply`; counts connections."""

    def __init__(self, socket: Path, reply: Callable[[str, str, Any], Reply]) -> None:
        self.connections = 0
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                double.connections += 1

            def answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                given = reply(self.command, self.path, json.loads(raw) if raw else None)
                if given is None:
                    self.close_connection = True
                    return
                status, document, headers = given
                data = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Say nothing of clients that went away."""

            def get_request(self) -> tuple[Any, Any]:
                return super().get_request()[0], ("unix", 0)

        self._server = Server(str(socket), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
