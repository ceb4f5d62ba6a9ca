"""3,000 flips of single bits of each kind that is stored or sent: none is read as other values."""

from __future__ import annotations

import numpy as np

from flips import refused
from fsd_core.codec import CodecError, decode, encode
from fsd_core.kernel import Block


def some_blocks() -> list[Block]:
    """Blocks that use every part of the layout: noise, saturation, a base, bitmaps and lists of live samples, nothing."""
    rng = np.random.default_rng(0)
    all_live = np.arange(40, dtype=np.int32)
    noise = rng.standard_normal((8, 41)).astype(np.float32)
    sparse = np.where(rng.random((8, 41)) < 0.3, noise, 0).astype(np.float32)
    saturated = np.zeros((30, 6), np.float32)
    saturated[:, 1:] = np.where(rng.random((30, 5)) < 0.9, 32, 0)
    few = np.array([3, 70, 500, 501, 9000], np.int32)
    some = np.flatnonzero(rng.random(80) < 0.5).astype(np.int32)
    half = rng.random((4, 1 + len(some))).astype(np.float32)
    empty = np.zeros((5, 1), np.float32)
    return [Block(noise, all_live, 40), Block(sparse, all_live, 40), Block(saturated, few, 10_000), Block(half, some, 80),
            Block(empty, np.zeros(0, np.int32), 40)]  # fmt: skip


def test_block() -> None:
    blocks = some_blocks()
    refused([encode(block) for block in blocks], lambda which, data: decode(data, blocks[which].rows, blocks[which].samples), CodecError)
