"""Rows (tokens) that a lean function handles at a time, and the masks of dropout that are drawn again in backward."""

from __future__ import annotations

from collections.abc import Iterator

import torch

ROWS = 2048
"""Tokens per piece: large enough to fill a GPU's matrix units, small beside a batch; temporaries are ROWS x width."""


def pieces(count: int) -> Iterator[slice]:
    """Consecutive slices of at most ROWS rows."""
    for start in range(0, count, ROWS):
        yield slice(start, min(start + ROWS, count))


def draw_seed() -> int:
    """A seed from the CPU's generator, which checkpointing restores before it recomputes; costs no device sync."""
    return int(torch.randint(0, 2**62, (1,)).item())


class Masks:
    """Dropout masks of consecutive pieces, scaled by 1/(1-p); the same seed gives the same masks."""

    def __init__(self, probability: float, seed: int, like: torch.Tensor) -> None:
        self.keep = 1.0 - probability
        self.dtype = like.dtype
        self.device = like.device
        self.generator = torch.Generator(device=like.device).manual_seed(seed)

    def next(self, rows: int, width: int) -> torch.Tensor:
        """The next piece's mask, (rows, width): 0 or 1/(1-p)."""
        return self.draw(torch.empty((rows, width), dtype=self.dtype, device=self.device))

    def draw(self, mask: torch.Tensor) -> torch.Tensor:
        """The next mask in a tensor's place."""
        return mask.bernoulli_(self.keep, generator=self.generator).div_(self.keep)
