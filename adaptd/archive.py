"""The archive of a backup: a tar, gzipped where its name says so, of known files behind a manifest with their digests.

Reading trusts nothing but the manifest's own digest: a member that the manifest does not name, that is no plain
file, or that is not what was hashed, ends it. Standard library only, no `extractall`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from adaptd.errors import BadBackup, SchemaMismatch
from adaptd.records import canonical

Json = dict[str, Any]
FORMAT = 1
MANIFEST = "manifest.json"
SUFFIXES = (".tar", ".tar.gz", ".tgz")
MEMBER = re.compile(r"adaptd\.db|adaptd\.toml|versions/[1-9][0-9]*/[^/\x00-\x1f.][^/\x00-\x1f]*")
CHUNK, MANIFEST_BYTES = 1 << 20, 64 << 20
SYNC_BYTES = 8 << 20
UNREADABLE = (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, OverflowError)


class _Paced(io.FileIO):
    """A file whose bytes reach the disk as they come: one flush of them all would hold up the journal's."""

    _waiting = 0
    go_on: Callable[[], None]

    def write(self, data: Any) -> int:
        done = super().write(data) or 0
        self._waiting += done
        if self._waiting >= SYNC_BYTES:
            os.fdatasync(self.fileno())
            self._waiting = 0
            self.go_on()
        return done


def pack(file: Path, facts: Mapping[str, Any], sources: Mapping[str, Callable[[], IO[bytes]]],
         go_on: Callable[[], None]) -> None:
    """Write an archive durably: the manifest of `facts`, whose `files` has name, size and sha256, then the files."""
    manifest = canonical({**facts, "format": FORMAT})
    sealed = canonical({"manifest": json.loads(manifest), "sha256": hashlib.sha256(manifest.encode()).hexdigest()}).encode()
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with _Paced(descriptor, "r+b") as paced, io.BufferedWriter(paced, CHUNK) as raw:
        paced.go_on = go_on
        with _compressing(file, raw) as stream, closing(tarfile.open(fileobj=stream, mode="w")) as tar:
            _add(tar, MANIFEST, len(sealed), io.BytesIO(sealed))
            for name, entry in facts["files"].items():
                with sources[name]() as data:
                    _add(tar, name, entry["size"], data)
        raw.flush()
        os.fsync(raw.fileno())


@contextmanager
def _compressing(file: Path, raw: IO[bytes]) -> Iterator[Any]:
    if not file.name.endswith((".gz", ".tgz")):
        yield raw
        return
    with gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed:  # vectors hardly get smaller
        yield packed


def _add(tar: tarfile.TarFile, name: str, size: int, data: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    tar.addfile(member, data)


def unpack(file: Path, into: Path, go_on: Callable[[], None]) -> Json:
    """Write an archive's files below a folder, each checked against the manifest; return the manifest.

    Raises
    ------
    BadBackup
        It is damaged, or holds what no backup holds. Some files may have been written.
    SchemaMismatch
        A newer adaptd wrote it.
    """
    try:
        with file.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with closing(gzip.GzipFile(fileobj=raw)) if packed else raw as stream:
                return _unpack(stream, into, go_on)
    except UNREADABLE as error:
        raise BadBackup(f"it is damaged: {error}") from None


def _unpack(stream: Any, into: Path, go_on: Callable[[], None]) -> Json:
    with closing(tarfile.open(fileobj=stream, mode="r:")) as tar:
        manifest = _manifest(tar, stream)
        missing = dict(manifest["files"])
        need, free = sum(entry["size"] for entry in missing.values()), shutil.disk_usage(into).free
        if need > free:
            raise BadBackup(f"unpacked it takes {need} bytes; {into} has {free} free", hint="name a folder on a larger disk")
        for member in tar:
            if member.name == MANIFEST:
                continue
            entry = missing.pop(member.name, None)
            if entry is None or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise BadBackup(f"it holds what no backup holds: {member.name!r}", field=member.name)
            _extract(tar, member, entry, into / member.name, go_on)
            _padding(stream, member)
        if missing:
            raise BadBackup(f"it ends before {next(iter(missing))!r}", field=next(iter(missing)))
        end = stream.read()
        if any(end) or len(end) < tarfile.BLOCKSIZE or stream.tell() % tarfile.RECORDSIZE:
            raise BadBackup("its end is damaged")
        return manifest


def _manifest(tar: tarfile.TarFile, stream: Any) -> Json:
    """Read the first member, which must be the manifest, and check what it says of itself."""
    member = tar.next()
    if member is None or member.name != MANIFEST or not member.isreg() or member.size > MANIFEST_BYTES:
        raise BadBackup("it is no backup of adaptd: it does not begin with a manifest")
    data = tar.extractfile(member)
    assert data is not None
    try:
        sealed = json.loads(data.read())
        manifest = sealed["manifest"]
        whole = hashlib.sha256(canonical(manifest).encode()).hexdigest() == sealed["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise BadBackup("its manifest is damaged", field=MANIFEST)
    _padding(stream, member)
    if manifest["format"] > FORMAT:
        raise SchemaMismatch(f"the backup's format {manifest['format']} is newer than this adaptd's, {FORMAT}",
                             hint="install the adaptd that wrote it, or a newer one")
    if wrong := [name for name in manifest["files"] if not MEMBER.fullmatch(name)]:
        raise BadBackup(f"its manifest names what no backup holds: {wrong[0]!r}", field=wrong[0])
    return dict(manifest)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, entry: Mapping[str, Any], to: Path,
             go_on: Callable[[], None]) -> None:
    """Write one member and hold it against its digest."""
    for folder in (to.parent.parent, to.parent):  # `parents` would not give them the mode
        folder.mkdir(mode=0o700, exist_ok=True)
    digest, data = hashlib.sha256(), tar.extractfile(member)
    assert data is not None
    with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        while chunk := data.read(CHUNK):
            go_on()
            digest.update(chunk)
            out.write(chunk)
    if member.size != entry["size"] or digest.hexdigest() != entry["sha256"]:
        raise BadBackup(f"{member.name} does not match its digest", field=member.name)


def _padding(stream: Any, member: tarfile.TarInfo) -> None:
    """Refuse bytes between the members: a flipped one says that the disk is not to be trusted."""
    if any(stream.read(-member.size % tarfile.BLOCKSIZE)):
        raise BadBackup(f"it is damaged behind {member.name}", field=member.name)
