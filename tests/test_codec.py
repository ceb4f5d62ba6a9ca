"""The codec keeps every bit of a block, every damage is an error, and forged bytes cause no large allocation."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from flips import refused
from fsd_core.codec import CodecError, Decoder, Encoder, decode, encode, pack
from fsd_core.codec.parts import Reader, number
from fsd_core.codec.values import pack_values, unpack_values
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


def _forged(data: bytes) -> bytes:
    """The same bytes with the right checksum."""
    return data if len(data) < 5 else data[:1] + struct.pack("<I", zlib.crc32(data[5:], 3)) + data[5:]


@settings(max_examples=300)
@given(blocks(), st.data())
def test_forgery_is_an_error_or_another_block_of_the_same_shape(block: Block, data: st.DataObject) -> None:
    """Forged bytes with the right checksum do not decide how much memory is allocated."""
    bad = _forged(_damaged(encode(block), data))
    try:
        back = decode(bad, block.rows, block.samples)
        assert back.dense().shape == (block.rows, block.samples)
        why = ""
    except CodecError as error:
        why = str(error)
    assert "checksum" not in why  # or this tests the checksum and nothing behind it


@pytest.mark.parametrize("compress", [False, True])
@settings(max_examples=300)
@given(data=st.data())
def test_forged_values_are_an_error_or_values_of_the_same_shape(data: st.DataObject, compress: bool) -> None:
    """Bits of the part behind the compression flip too."""
    block = data.draw(blocks().filter(lambda block: block.rows))
    reader = Reader(pack_values(block.values))
    first = Reader.of_compressed(reader.raw(reader.number(1 << 20, ""), ""), 1 << 20)
    bad = _damaged(bytes(first.rest()), data)
    part = b"\1" + zstandard.ZstdCompressor().compress(bad) if compress else b"\0" + bad
    forged = memoryview(number(len(part)) + part + reader.rest())
    with contextlib.suppress(CodecError):
        assert unpack_values(forged, block.rows, len(block.live)).shape == (block.rows, 1 + len(block.live))


def test_a_frame_that_claims_too_much_is_refused_before_it_is_unpacked() -> None:
    part = b"\1" + zstandard.ZstdCompressor().compress(bytes(1 << 24))
    assert len(part) < 2000
    with pytest.raises(CodecError, match=r"16777216 bytes uncompressed: expected at most"):
        unpack_values(memoryview(number(len(part)) + part), 2, 10)


@pytest.mark.parametrize(("rows", "samples", "word"), [(3, 10, "3 rows"), (2, 11, "11 samples")])
def test_a_block_of_another_shape_is_refused(rows: int, samples: int, word: str) -> None:
    data = encode(Block(np.ones((2, 11), np.float32), np.arange(10, dtype=np.int32), 10))
    with pytest.raises(CodecError, match=word):
        decode(data, rows, samples)


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[int, Block]]:
    """What one rank sends in a micro-batch: (target, block), of up to 3 targets. Live samples stay, change a little, or are others."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    samples, found = draw(st.integers(1, 300)), []
    alive = rng.random(samples) < draw(st.sampled_from([0, 0.02, 0.5, 1]))
    for _ in range(draw(st.integers(1, 8))):
        flips = rng.random(samples) < draw(st.sampled_from([0, 0, 0.01, 0.5, 1]))
        alive = alive ^ flips
        live = np.flatnonzero(alive).astype(np.int32)
        values = rng.choice(SPECIAL, (draw(st.integers(1, 6)), 1 + len(live)))
        found.append((draw(st.integers(0, 2)), Block(values, live, samples)))
    return found


@given(steps())
def test_the_steps_of_a_micro_batch_are_lossless(found: list[tuple[int, Block]]) -> None:
    encoder, decoders = Encoder(), [Decoder() for _ in range(3)]
    sent = [(target, encoder.encode(target, pack(block)), block) for target, block in found]
    for target, data, block in sent:  # each target knows this rank as source 7
        back = decoders[target].decode(7, data, block.rows, block.samples)
        assert back.values.tobytes() == block.values.tobytes()
        assert back.live.tolist() == block.live.tolist()
    again = Encoder()  # a micro-batch that is computed again gives the same bytes
    assert [again.encode(target, pack(block)) for target, block in found] == [data for _, data, _ in sent]


def _chain(count: int) -> tuple[list[bytes], tuple[int, int]]:
    """The payloads of ``count`` steps of one pair, and their rows and samples. The second and later ones are differences."""
    rng, encoder, payloads = np.random.default_rng(0), Encoder(), []
    live = np.flatnonzero(rng.random(400) < 0.5).astype(np.int32)
    for _ in range(count):
        payloads.append(encoder.encode(0, pack(Block(rng.random((3, 1 + len(live)), np.float32), live, 400))))
        live = np.setxor1d(live, rng.choice(400, 3, replace=False)).astype(np.int32)
    return payloads, (3, 400)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([1], "the block of step 1 of its source: expected step 0"),
        ([0, 0], "the block of step 0 of its source: expected step 1"),
        ([0, 2], "the block of step 2 of its source: expected step 1"),
        ([0, 1, 2, 1], "the block of step 1 of its source: expected step 3"),
    ],
)
def test_a_block_of_another_step_is_refused(order: list[int], message: str) -> None:
    payloads, shape = _chain(3)
    decoder = Decoder()
    for step in order[:-1]:
        decoder.decode(0, payloads[step], *shape)
    with pytest.raises(CodecError, match=message):
        decoder.decode(0, payloads[order[-1]], *shape)


def test_a_difference_without_its_base_is_refused() -> None:
    payloads, shape = _chain(2)
    with pytest.raises(CodecError, match="step 1 of its source: expected step 0"):
        decode(payloads[1], *shape)
    assert payloads[1][5] == 1  # the step
    with pytest.raises(CodecError, match="a difference to the step before: expected the whole set"):
        decode(_forged(payloads[1][:5] + b"\0" + payloads[1][6:]), *shape)


def test_every_flipped_bit_of_a_chain_is_found() -> None:
    payloads, shape = _chain(3)

    def at(which: int, data: bytes) -> None:
        decoder = Decoder()
        for step in range(which):
            decoder.decode(0, payloads[step], *shape)
        decoder.decode(0, data, *shape)

    refused(payloads, at, CodecError)


def test_saturated_activations_take_almost_nothing() -> None:
    values = np.zeros((128, 1 + 337), np.float32)
    values[:, 1:] = 32
    live = np.sort(np.random.default_rng(0).choice(10000, 337, replace=False)).astype(np.int32)
    block, encoder = Block(values, live, 10000), Encoder()
    assert len(encode(block)) < 420
    assert len(encoder.encode(0, pack(block))) < 420
    assert len(encoder.encode(0, pack(block))) < 60


def _kinds() -> dict[str, np.ndarray]:
    """Activations of many kinds, float32 (rows, live samples)."""
    rng = np.random.default_rng(0)
    noise = np.abs(rng.standard_normal((64, 3000))).astype(np.float32)
    ranks = rng.integers(0, 30, (1, 3000))
    return {
        "nothing": noise[:, :0],
        "one value": noise[:1, :1],
        "noise": noise,
        "a little noise": noise[:4, :20],
        "much noise": rng.standard_normal((128, 10000)).astype(np.float32),
        "no row twice, small numbers": rng.integers(0, 40, (64, 3000)).astype(np.float32) / 16,
        "many small numbers": rng.integers(0, 3000, (64, 3000)).astype(np.float32) / 16,
        "300 numbers": rng.integers(0, 300, (64, 3000)).astype(np.float32) / 7,
        "zeros": np.zeros((64, 3000), np.float32),
        "two values": rng.choice(np.float32([0, 32]), (64, 3000)),
        "two values, few of one": np.where(rng.random((64, 3000)) < 0.01, np.float32(32), np.float32(0)),
        "half zeros": np.where(rng.random(noise.shape) < 0.5, noise, 0),
        "few values": np.where(rng.random(noise.shape) < 0.02, noise, 0),
        "saturated": np.minimum(noise * 40, np.float32(32)),
        "saturated and zeros": np.clip(rng.standard_normal((64, 3000)) * 100, 0, 32).astype(np.float32),
        "equal rows": np.repeat(noise[:4], 16, axis=0),
        "two equal rows": np.concatenate([noise, noise[:1]]),
        "equal columns": np.repeat(noise[:, :100], 30, axis=1),
        "half of the rows constant": np.concatenate([np.full((64, 3000), 5, np.float32), noise]),
        "constant, then noise": np.concatenate([np.full((600, 3000), 5, np.float32), noise[:8]]),
        "ramps": np.float32(np.arange(64)[:, None] + ranks),
        "halves": noise.astype(np.float16).astype(np.float32),
        "negative": -noise,
        "special": rng.choice(SPECIAL, (64, 3000)),
        "wide": noise.reshape(2, -1),
        "tall": noise.reshape(-1, 2),
    }


@pytest.mark.parametrize("kind", _kinds())
def test_no_block_is_larger_than_byte_planes_by_more_than_a_hundredth(kind: str) -> None:
    values = _kinds()[kind]
    block = Block(
        np.concatenate([np.zeros((len(values), 1), np.float32), values], axis=1), np.arange(values.shape[1], dtype=np.int32), 10**4
    )
    planes = zstandard.ZstdCompressor(level=3).compress(np.ascontiguousarray(values.view(np.uint8).reshape(-1, 4).T).tobytes())
    data = pack_values(block.values)
    assert len(data) <= 1.01 * len(planes) + 8
    assert unpack_values(memoryview(data), len(values), values.shape[1]).tobytes() == block.values.tobytes()


@settings(max_examples=200)
@given(blocks())
def test_no_small_block_is_larger_than_byte_planes_by_more_than_a_hundredth(block: Block) -> None:
    base, values = block.values[:, 0], np.ascontiguousarray(block.values[:, 1:])
    plain = base.tobytes() if base.view(np.uint32).any() else b""
    plain += np.ascontiguousarray(values.view(np.uint8).reshape(-1, 4).T).tobytes()
    least = min(len(plain), len(zstandard.ZstdCompressor(level=3).compress(plain)))
    assert len(pack_values(block.values)) <= 1.01 * least + 20  # the numbers of rows, colours and floats, and the head of a frame


def test_rows_of_equal_checksums_keep_their_bits() -> None:
    rows = np.random.default_rng(0).standard_normal((200_000, 16)).astype(np.float32)  # so many that some have equal checksums
    seen: dict[int, int] = {}
    pair = next([at, other] for at, row in enumerate(rows) if (other := seen.setdefault(zlib.crc32(row), at)) != at)
    first, second = rows[pair]
    assert first.tobytes() != second.tobytes()
    values = np.stack([first, second, *[first] * 20])
    np.testing.assert_array_equal(unpack_values(memoryview(pack_values(values)), len(values), 15), values)
