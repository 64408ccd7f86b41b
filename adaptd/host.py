"""What the daemon needs of its host: the token, the TCP socket, a folder it may write, a log."""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import resource
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

from adaptd import journald
from adaptd.config import Log
from adaptd.errors import BadConfig, CannotStart, DiskLow
from adaptd.paths import Paths

OPEN_FILES = 65_536
OBJECTS = 20_000  # between two looks for cycles; Python's 700 are made by a hundred events, and no cycle among them
MALLOC = (("MALLOC_ARENA_MAX", -8, 2), ("MALLOC_MMAP_THRESHOLD_", -3, 4 << 20))  # M_ARENA_MAX, M_MMAP_THRESHOLD of malloc.h
MOUNTS = Path("/proc/self/mounts")
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs", "fuse.sshfs", "fuse.glusterfs",
           "fuse.s3fs", "fuse.rclone")
LOOK_S, RETRY_S = 1.0, 10.0  # between two looks at the disk; when to try again


def read_token(path: Path) -> str:
    """Return the token that guards TCP; make one where there is none.

    Raises
    ------
    BadConfig
        Others can read it, or it is damaged.
    """
    if not path.exists() or not path.stat().st_size:  # a crash may have left it empty
        made = path.with_name(f".{path.name}.tmp")
        made.unlink(missing_ok=True)
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        made.rename(path)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadConfig(f"{path} can be read by others", hint=f"chmod 600 {path}")
    token = path.read_bytes().strip()
    if not token.isascii():
        raise BadConfig(f"{path} is damaged", hint="remove it: a start makes a new one")
    return token.decode()


def bind(host: str, port: int) -> socket.socket:
    """Return a bound TCP socket; port 0 picks one.

    Raises
    ------
    CannotStart
        The port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}", field="http.port",
                          hint="stop what listens there, or set [http] port = 0 to pick a free one") from None
    bound.setblocking(False)
    return bound


def address(bound: socket.socket, *, secure: bool) -> str:
    """Return the URL of a bound TCP socket."""
    host, port = bound.getsockname()[:2]
    return f"http{'s' if secure else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def check_folder(state: Path) -> None:
    """Refuse a state folder that cannot be written or that others can write."""
    if not os.access(state, os.W_OK | os.X_OK):
        raise CannotStart(f"the state folder {state} is not writable", hint="chown it to this user, or mount it read-write")
    if state.stat().st_mode & stat.S_IWOTH:
        raise CannotStart(f"anybody can write to the state folder {state}", hint=f"chmod 700 {state}")
    if (kind := file_system(state)) in NETWORK:
        raise CannotStart(f"the state folder {state} is on a network file system ({kind}), on which SQLite's WAL does not work",
                          hint="put it on a local disk, and backups on the network: adaptd backup")


def file_system(path: Path) -> str:
    """Return the kind of file system on which a path lies."""
    mounts = [line.split() for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()]
    around = {Path(words[1].encode().decode("unicode_escape")): words[2] for words in mounts}  # of a place's mounts the last
    found = path.resolve()
    return next((around[place] for place in (found, *found.parents) if place in around), "")


def raise_open_files() -> None:
    """Take as many open files as this process may have: each client and each feed holds one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def give_memory_back() -> None:
    """Let glibc return what is freed to the system, rather than keep it in an arena for each of the daemon's threads.

    Each arena grows to the most that its thread ever used at once (mallopt(3)); of large blocks nothing is kept. Where
    the C library has no such setting nothing is done; `MALLOC_ARENA_MAX` and `MALLOC_MMAP_THRESHOLD_` are respected.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for variable, setting, value in MALLOC:
        if mallopt is not None and variable not in os.environ:
            mallopt(setting, value)


class Room:
    """The room on the store's disk. Below the mark nothing new is taken: what is left is for answers and versions."""

    def __init__(self, folder: Path, mark_mb: int, report: Callable[[str, str, str], None]) -> None:
        self._folder = folder
        self._mark = mark_mb << 20
        self._report = report
        self._free, self._looked = 0, -math.inf

    @property
    def low(self) -> bool:
        """Whether less is free than the mark; from twice the mark on it is a problem. Looked at once a second."""
        if self._mark and time.monotonic() - self._looked >= LOOK_S:
            self._looked, self._free = time.monotonic(), shutil.disk_usage(self._folder).free
            if self._free < 2 * self._mark:
                what = "nothing new is taken" if self._free < self._mark else f"at {self._mark >> 20} MiB nothing new is taken"
                self._report("disk_low", f"the disk of {self._folder} is nearly full: {what}, answers go on",
                             "free some space: adaptd doctor names what can go; [limits] free_mb is the mark")
        return bool(self._mark) and self._free < self._mark

    @property
    def free(self) -> int:
        """Free bytes, looked at now."""
        return shutil.disk_usage(self._folder).free

    def check(self) -> None:
        """Refuse what would fill the disk.

        Raises
        ------
        DiskLow
            Less is free than the mark.
        """
        if self.low:
            raise DiskLow(f"the store's disk has {self._free >> 20} MiB free, and takes nothing new below {self._mark >> 20}",
                          retry_after_s=RETRY_S, hint="free some space; nothing that was acknowledged is lost")


def check_not_lost(paths: Paths, there: bool) -> None:
    """Refuse to begin anew beside versions, which would be taken for orphans and removed; `there`: the database is.

    Raises
    ------
    CannotStart
        The database is gone or empty, and there are versions.
    """
    if not there and any(paths.versions.glob("[0-9]*")):
        database = "what the database held" if paths.url else paths.database
        raise CannotStart(f"there are versions, but {database} is lost",
                          hint="restore the newest backup; to begin anew move the versions away")


def log_to_stderr(settings: Log) -> None:
    """Log to standard error, as text or as one JSON object a line; text in the journal comes with its fields."""
    handler: logging.Handler = logging.StreamHandler()
    if settings.format == "json":
        handler.setFormatter(_JsonFormatter())
    elif journald.is_stderr():
        handler = journald.Handler()
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    logging.getLogger("adaptd.audit").setLevel(logging.INFO)  # whatever the level is
    for noisy in ("alembic", "apscheduler", "httpx", "uvicorn", "faiss"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        body = {"at": record.created, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        body |= {key: getattr(record, key) for key in journald.FIELDS if getattr(record, key, None) is not None}
        if record.exc_info:
            body["traceback"] = self.formatException(record.exc_info)
        return json.dumps(body)

