"""Where a store's files are. Standard library only: `status` and `--help` come this way."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from adaptd.errors import BadConfig

CONFIG = "adaptd.toml"
SYSTEM_CONFIG = Path("/etc/adaptd/adaptd.toml")


@dataclass(frozen=True)
class Paths:
    """Everything of one store lies below `state`; the socket may be moved."""

    config: Path
    state: Path

    @property
    def socket(self) -> Path:
        """The unix socket the daemon listens on."""
        return self.state / "adaptd.sock"

    @property
    def lock(self) -> Path:
        """The file whose flock is held for the daemon's life."""
        return self.state / "adaptd.lock"

    @property
    def database(self) -> Path:
        """The SQLite file with everything that is truth."""
        return self.state / "adaptd.db"

    @property
    def token(self) -> Path:
        """The token that guards loopback TCP, mode 0600."""
        return self.state / "token"

    @property
    def versions(self) -> Path:
        """One folder of safetensors files per version."""
        return self.state / "versions"

    @property
    def checkpoints(self) -> Path:
        """Derived state: statistics and FAISS index, rebuilt when missing or damaged."""
        return self.state / "checkpoints"

    @property
    def jobs(self) -> Path:
        """One folder per training job: in/ and out/."""
        return self.state / "jobs"

    @property
    def runs(self) -> Path:
        """What adaptations are logged to for TensorBoard and Weights & Biases, where that is wanted."""
        return self.state / "runs"


def locate(config: str | os.PathLike[str] | None = None) -> Paths:
    """Find the configuration file (argument, ADAPTD_CONFIG, ./adaptd.toml, /etc) and the state folder beside it.

    Raises
    ------
    BadConfig
        There is no such file, or it is not TOML.
    """
    given = config or os.environ.get("ADAPTD_CONFIG")
    path = Path(given) if given else next((p for p in (Path(CONFIG), SYSTEM_CONFIG) if p.is_file()), Path(CONFIG))
    path = path / CONFIG if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
        state = tomllib.loads(text).get("state", ".")
    except FileNotFoundError:
        raise BadConfig(f"no configuration at {path}", hint="name one with --config, or make one: adaptd init DIR") from None
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}", hint="make the file readable for this user") from None
    except (ValueError, RecursionError) as error:  # what tomllib refuses, and what it cannot hold
        raise BadConfig(f"{path}: not valid TOML: {error}", hint="mend that line") from None
    state = os.environ.get("ADAPTD_STATE", state)
    if not isinstance(state, str):
        raise BadConfig(f"{path}: state must be a path", field="state")
    return Paths(config=path.absolute(), state=(path.parent / state).absolute())
