"""Threads: how many cores a small piece of work takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """Use one thread for a small piece of work: it is no slower, and the other cores are free to journal and to learn."""
    usual = torch.get_num_threads()
    if not when or usual == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
