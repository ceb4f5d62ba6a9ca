"""Frames and bundles keep their content, errors name damage, batches are within their limits, the mailbox keeps each payload once."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.channel import RankIdentity
from fsd_core.channel.frames import KEY_BYTES, Frame, Kind, Stray, Unverified, fill, pack, split, unpack
from fsd_core.channel.mailbox import Duplicate, Inconsistent, Mailbox, Unexpected
from fsd_core.channel.objects import DamagedBundle, bundle, entry
from fsd_core.driver import Code
from fsd_core.errors import RunFailed

RUN = "00ff00ff00ff00ff"
KEY = bytes(range(KEY_BYTES))
TARGET = RankIdentity(RUN, 1, 5, 9, 0.0, key=KEY)
numbers = st.integers(0, 2**32 - 1)
sources = st.integers(-1, 2**31 - 1)  # -1: the client


def frame(step: int, source: int, sequence: int, of: int, body: bytes) -> Frame:
    return Frame(Kind.PAYLOAD, RUN, 7, step, source, sequence, of, body)


@given(st.sampled_from(list(Kind)), st.integers(0, 2**64 - 1), numbers, numbers, sources, st.integers(0, 99), st.binary(max_size=300))
def test_a_frame_is_unpacked_as_it_was_packed(kind: Kind, run: int, epoch: int, step: int, source: int, sequence: int, body: bytes) -> None:
    whole = Frame(kind, f"{run:016x}", epoch, step, source, sequence, sequence + 1, body)
    assert unpack(pack(whole, 7, KEY), 7, KEY) == whole
    for target, key in ((8, KEY), (-1, KEY), (7, KEY[1:] + b"x"), (7, bytes(KEY_BYTES))):
        with pytest.raises(Unverified) as caught:
            unpack(pack(whole, 7, KEY), target, key)
        assert (caught.value.run, caught.value.epoch) == (whole.run, epoch)


@given(st.binary(max_size=50), st.data())
def test_any_cut_or_flipped_bit_is_noticed(body: bytes, data: st.DataObject) -> None:
    good = pack(frame(3, 1, 0, 1, body), 2, KEY)
    cut = good[: data.draw(st.integers(0, len(good) - 1))]
    at, bit = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 7))
    flipped = good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :]
    for bad in (cut, flipped):
        with pytest.raises((Stray, Unverified)):
            unpack(bad, 2, KEY)


@given(st.binary(max_size=200), st.integers(1, 60))
def test_split_gives_pieces_that_join(payload: bytes, size: int) -> None:
    pieces = split(payload, size)
    assert b"".join(pieces) == payload
    assert all(len(piece) <= size for piece in pieces)


def test_a_payload_of_too_many_pieces_is_refused() -> None:
    assert len(split(bytes(65_535), 1)) == 65_535
    with pytest.raises(RunFailed, match="takes 65536 messages: expected at most 65535") as caught:
        split(bytes(65_536), 1)
    assert caught.value.code is Code.TOO_LARGE


@given(st.lists(st.integers(0, 100), max_size=60), st.integers(1, 10))
def test_batches_hold_everything_once_within_both_limits(sizes: list[int], count: int) -> None:
    batches = fill(sizes, count, 100)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    assert all(len(batch) <= count and sum(sizes[i] for i in batch) <= 100 for batch in batches)


@given(st.dictionaries(st.integers(0, 5), st.binary(max_size=40), min_size=1), st.integers(1, 7), st.randoms())
def test_pieces_in_any_order_and_number_give_each_payload_once(payloads: dict[int, bytes], size: int, random: object) -> None:
    mailbox = Mailbox({0: list(payloads)})
    frames = [
        frame(0, source, n, len(pieces), piece)
        for source, payload in payloads.items()
        for pieces in [split(payload, size)]
        for n, piece in enumerate(pieces)
    ]
    frames += random.choices(frames, k=len(frames))  # type: ignore[attr-defined]
    random.shuffle(frames)  # type: ignore[attr-defined]
    copies = 0
    for one in frames:
        try:
            body = mailbox.add(one)
        except Duplicate:
            copies += 1
            continue
        if body is not None:
            assert mailbox.deliver(one.step, one.source, body)
    assert copies == len(frames) // 2
    assert mailbox.awaited == 0
    assert mailbox.missing(0) == []
    got = [mailbox.next(0, 0) for _ in payloads]
    assert dict(item for item in got if item) == payloads
    assert mailbox.next(0, 0) is None


@given(st.dictionaries(st.integers(0, 60), st.binary(max_size=80), min_size=1, max_size=20), st.integers(0, 10))
def test_a_bundle_gives_each_target_its_own(payloads: dict[int, bytes], source: int) -> None:
    body = bundle(RankIdentity(RUN, 1, source, 61, 0.0, key=KEY), 4, list(payloads.items()))
    for target, payload in payloads.items():
        offset, length, _ = entry(body, RankIdentity(RUN, 1, target, 61, 0.0, key=KEY), 4, source)
        assert body[offset : offset + length] == payload


@pytest.mark.parametrize(
    ("change", "word"),
    [(lambda b: b"", "and a header of"), (lambda b: b[:40], "does not fit"), (lambda b: b[:36] + b"\xff" + b[37:], "tag of its directory")],
)
def test_a_damaged_bundle_is_named(change: object, word: str) -> None:
    body = bundle(RankIdentity(RUN, 1, 2, 9, 0.0, key=KEY), 4, [(5, b"x" * 9)])
    with pytest.raises(DamagedBundle, match=word) as caught:
        entry(change(body), TARGET, 4, 2)  # type: ignore[operator]
    assert caught.value.rank == 5


def test_a_bundle_of_another_step_or_without_this_target_is_refused() -> None:
    body = bundle(RankIdentity(RUN, 1, 2, 9, 0.0, key=KEY), 4, [(5, b"x")])
    other = attrs.evolve(TARGET, key=bytes(KEY_BYTES))
    for me, step, word in (
        (TARGET, 5, "expected version 2, run"),
        (attrs.evolve(TARGET, rank=6), 4, "no entry for rank 6"),
        (other, 4, "tag"),
    ):
        with pytest.raises(DamagedBundle, match=word):
            entry(body, me, step, 2)


def test_an_unexpected_piece_is_no_duplicate_and_is_not_kept() -> None:
    mailbox = Mailbox({0: [1]})
    for strange in (frame(0, 2, 0, 1, b""), frame(9, 1, 0, 1, b"")):
        with pytest.raises(Unexpected):
            mailbox.add(strange)
    assert mailbox.missing(0) == [1]


def test_an_inconsistent_piece_is_no_duplicate() -> None:
    mailbox = Mailbox({0: [1]})
    assert mailbox.add(frame(0, 1, 0, 3, b"a")) is None
    for number in (0, 1):
        with pytest.raises(Inconsistent, match="one of 2 pieces in step 0: expected one of 3"):
            mailbox.add(frame(0, 1, number, 2, b"b"))
    assert mailbox.add(frame(0, 1, 2, 3, b"c")) is None
    assert mailbox.add(frame(0, 1, 1, 3, b"b")) == b"abc"
