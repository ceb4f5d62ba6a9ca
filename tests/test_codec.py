"""The codec keeps every bit of a block, every damage is an error, and forged bytes cause no large allocation."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsd_core.codec import CodecError, decode, encode
from fsd_core.kernel import Block

SPECIAL = np.array([0.0, -0.0, 1.0, 32.0, -1.5, np.inf, -np.inf, np.nan, 1e-45, 3.4e38], np.float32)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, samples = draw(st.integers(0, 12)), draw(st.integers(1, 300))
    live = np.flatnonzero(rng.random(samples) < draw(st.sampled_from([0, 0.02, 0.5, 1]))).astype(np.int32)
    values = rng.standard_normal((rows, 1 + len(live))).astype(np.float32)
    values[rng.random(values.shape) < draw(st.sampled_from([0, 0.3, 0.9, 1]))] = 0
    special = rng.random(values.shape) < draw(st.sampled_from([0, 0.2]))
    values[special] = rng.choice(SPECIAL, int(special.sum()))
    if draw(st.booleans()):
        values[:, 0] = 0
    return Block(values, live, samples)


@given(blocks())
def test_lossless(block: Block) -> None:
    back = decode(encode(block), block.rows, block.samples)
    assert back.dense().tobytes() == block.dense().tobytes() or _only_zero_signs(back.dense(), block.dense())
    assert set(back.live) <= set(block.live)


def _only_zero_signs(a: np.ndarray, b: np.ndarray) -> bool:
    """A sample that differs from the base in the sign of zeros alone is dropped, since every activation is equal for both."""
    return np.array_equal(a, b, equal_nan=True)


def _damaged(good: bytes, data: st.DataObject) -> bytes:
    if data.draw(st.booleans()):
        return good[: data.draw(st.integers(0, len(good) - 1))]
    at, bit = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 7))
    return good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :]


@given(blocks(), st.data())
def test_damage_is_an_error(block: Block, data: st.DataObject) -> None:
    with pytest.raises(CodecError):
        decode(_damaged(encode(block), data), block.rows, block.samples)


@settings(max_examples=300)
@given(blocks(), st.data())
def test_forgery_is_an_error_or_another_block_of_the_same_shape(block: Block, data: st.DataObject) -> None:
    """Forged bytes with the right checksum do not decide how much memory is allocated."""
    bad = _damaged(encode(block), data)
    if len(bad) >= 22:
        bad = bad[:18] + struct.pack("<I", zlib.crc32(bad[22:], zlib.crc32(bad[:18]))) + bad[22:]
    try:
        back = decode(bad, block.rows, block.samples)
        assert back.dense().shape == (block.rows, block.samples)
        why = ""
    except CodecError as error:
        why = str(error)
    assert "checksum" not in why  # or this tests the checksum and nothing behind it


@pytest.mark.parametrize(("rows", "samples", "word"), [(3, 10, "3 rows"), (2, 11, "11 samples")])
def test_a_block_of_another_shape_is_refused(rows: int, samples: int, word: str) -> None:
    data = encode(Block(np.ones((2, 11), np.float32), np.arange(10, dtype=np.int32), 10))
    with pytest.raises(CodecError, match=word):
        decode(data, rows, samples)


def test_saturated_activations_take_almost_nothing() -> None:
    values = np.zeros((128, 1 + 337), np.float32)
    values[:, 1:] = 32
    live = np.sort(np.random.default_rng(0).choice(10000, 337, replace=False)).astype(np.int32)
    assert len(encode(Block(values, live, 10000))) < 1100
