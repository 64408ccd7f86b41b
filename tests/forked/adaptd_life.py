"""One life of a real daemon, forked from a process that has imported it: a start then costs no imports.

`main` runs in the fork. It is `adaptd run` and nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `adaptd run` does, before torch is imported

import faiss  # noqa: F401
import river.drift  # noqa: F401
import transformers.models.bert.modeling_bert  # noqa: F401
from transformers import AutoModel, AutoTokenizer  # noqa: F401

import adaptd.daemon  # noqa: F401
from adaptd.cli import main as command


def main(folder: str, said: str, environment: Mapping[str, str]) -> None:
    """Become the daemon of a store."""
    os.setsid()
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    for name in [name for name in os.environ if name.startswith("ADAPTD_")]:
        del os.environ[name]
    os.environ.update(environment)
    sys.argv = ["adaptd", "run", "--config", folder]
    command()
