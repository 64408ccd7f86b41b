"""What a fork begins with: it imports nothing where it is named, which is in pytest's process."""

from __future__ import annotations

import importlib
from typing import Any


def begin(module: str, *given: Any) -> None:
    """Run a module's `main`."""
    importlib.import_module(module).main(*given)
