"""Prompted: a transformer's blocks as they are, behind learned tokens.

Tokens in front of the first block, which all blocks see (prompt tuning; Lester et al., 2021), or other ones in front of each
block (prefix tuning as it is done for understanding: P-tuning v2; Liu et al., 2022). `adaptd.model.encoder.through` runs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

FIRST = 0.02  # standard deviation that tokens begin with


class Prompted(torch.nn.ModuleList):
    """Blocks and `prompts` [k, tokens, width]; k = 1, or as many as there are blocks."""

    def __init__(self, blocks: Iterable[torch.nn.Module], shape: Sequence[int]) -> None:
        super().__init__(blocks)
        self.prompts = torch.nn.Parameter(torch.empty(*shape).normal_(std=FIRST))


def front(blocks: Any) -> int:
    """Return how many tokens stand in front of what blocks read."""
    return blocks.prompts.shape[1] if isinstance(blocks, Prompted) else 0
