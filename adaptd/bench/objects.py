"""A store of objects, as much of S3 as Tansu asks for, so that it finds its data when it is started again."""

from __future__ import annotations

import hashlib
import re
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class Objects(ThreadingHTTPServer):
    """Objects by name, in memory, on a free port until it is closed."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.shutdown()
        self.server_close()


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Objects

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    @property
    def name(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        wanted, absent = self.headers.get("if-match"), self.headers.get("if-none-match")
        with self.server.lock:
            there = self.server.objects.get(self.name)
            if (absent == "*" and there is not None) or (wanted is not None and (there is None or _tag(there) != wanted)):
                return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            self.server.objects[self.name] = body
        return self.answer(200, ETag=_tag(body))

    def do_GET(self) -> None:
        if not self.name:
            return self.listed()
        with self.server.lock:
            there = self.server.objects.get(self.name)
        if there is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        about = {"ETag": _tag(there), "Last_Modified": formatdate(usegmt=True), "Accept_Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if part is None:
            return self.answer(200, there, **about, **({"Content_Length": str(len(there))} if self.command == "HEAD" else {}))
        first, last = int(part[1]), min(int(part[2] or len(there)), len(there) - 1)
        return self.answer(206, there[first:last + 1], Content_Range=f"bytes {first}-{last}/{len(there)}", **about)

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        with self.server.lock:
            self.server.objects.pop(self.name, None)
        self.answer(204)

    def do_POST(self) -> None:
        """Delete several objects."""
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        names = re.findall(r"<Key>(.*?)</Key>", body)
        with self.server.lock:
            for name in names:
                self.server.objects.pop(name, None)
        gone = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
        self.answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def listed(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        with self.server.lock:
            found = {name: one for name, one in sorted(self.server.objects.items()) if name.startswith(prefix)}
        below = {prefix + name[len(prefix):].split(delimiter)[0] + delimiter for name in found
                 if delimiter and delimiter in name[len(prefix):]}
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>{escape(_tag(one))}"
            f"</ETag><Size>{len(one)}</Size></Contents>"
            for name, one in found.items() if not (delimiter and delimiter in name[len(prefix):]))
        folders = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(below))
        self.answer(200, ('<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><IsTruncated>false</IsTruncated>'
                          f"<Prefix>{escape(prefix)}</Prefix>{contents}{folders}</ListBucketResult>").encode(),
                    Content_Type="application/xml")


def _tag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'
