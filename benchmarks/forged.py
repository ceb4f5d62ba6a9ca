"""Gives mutated and forged frames to a worker's queue channel: none may be accepted, end the run, or take memory.

    python benchmarks/forged.py [--frames 1000000] [--seed 0]

The attacker can read and write the queues, and has the frames of other runs, but not the frame key of this run. Half of the messages go to
a channel of a service that carries bytes, half to a channel of a service that carries text (base64). They go through the function that
takes every message of a run. Each kind of message has the same share.

``accepted`` counts the messages that changed what the channel knows or ended its run, ``crashes`` those that raised any other error. A
mutation that gives the bytes of a genuine frame does not count: another one is drawn. ``peak`` is the largest memory that the channel took
for one message, in KB (tracemalloc); the limit is the size of the largest message of the service plus 64 KB. ``kept`` is the memory in KB
that is still in use after all messages of a kind. At the end, the genuine frames show that the channels still accept frames.

Exit code 1 if a message was accepted, crashed the channel, or took more memory than the limit.
"""

from __future__ import annotations

import argparse
import base64
import logging
import random
import struct
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import attrs

from fsd_core.channel import ChannelConfig, News, QueueChannel, RankIdentity, describe
from fsd_core.channel.frames import _HEADER, HEADER_BYTES, Frame, Kind, new_key, pack
from fsd_core.driver import Code, Delivery, MessageDriver
from fsd_core.errors import FsdError, RunFailed
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.wrappers.around import AroundMessages
from fsd_local import PROVIDER
from fsd_local.limits import messages

RUN, OTHER = "0a" * 8, "0b" * 8
EPOCH, RANK, WORKERS, STEPS = 7, 2, 8, 16
SLACK_BYTES = 64 << 10
FIELDS = ("magic", "version", "kind", "source incarnation", "target incarnation", "run", "epoch", "step", "source", "sequence", "of")
WIDE = (1 << 32) - 1


@attrs.frozen
class Known:
    """The genuine frames that the attacker has."""

    ours: list[bytes]  # of this run, for this rank
    elsewhere: list[bytes]  # of this run, for another rank
    others: list[bytes]  # of other runs


Mutate = Callable[[random.Random, Known], bytes]


@attrs.define
class Row:
    """The results for the messages of one kind."""

    kind: str
    messages: int = 0
    strays: int = 0  # dropped as messages of other runs, or as no frames
    dropped: int = 0  # dropped because their tag is wrong
    accepted: int = 0
    crashes: int = 0
    peak_bytes: int = 0
    kept_bytes: int = 0
    seconds: float = 0.0


def frames(rng: random.Random, run: str, epoch: int, key: bytes, target: int, largest: int) -> list[bytes]:
    """Frames of all kinds and of many sizes, up to a body of ``largest`` bytes, as the ranks of a run send them to ``target``."""
    bodies = [(Kind.PAYLOAD, rng.randbytes(size)) for size in (*(0, 1, 17, 300, 2000) * 18, 9000, 9000, 40_000, largest)]
    bodies += [(Kind.NOTICE, rng.randbytes(32)), (Kind.ABORT, describe(RunFailed(Code.INVALID, "why", rank=1)))]
    bodies += [(Kind.NEWS, News(kind=kind, rank=rank, incarnation=0).pack()) for kind in ("lost", "hello") for rank in (1, RANK)]
    sources = [rank for rank in range(WORKERS) if rank != RANK]
    found = []
    for number, (kind, body) in enumerate(bodies):
        of = rng.choice((1, 1, 3))
        step, source = number % STEPS, sources[number // STEPS]  # no two of them have both in common
        found.append(pack(Frame(kind, run, epoch, step, source, rng.randrange(of), of, body), target, key))
    return found


# How messages are made


def flipped(rng: random.Random, known: Known) -> bytes:
    data = bytearray(rng.choice(known.ours))
    for _ in range(rng.randint(1, 8)):
        end = len(data) if rng.random() < 0.5 else HEADER_BYTES
        data[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(rng: random.Random, known: Known) -> bytes:
    data = rng.choice(known.ours)
    return data[: rng.randrange(len(data))]


def longer(rng: random.Random, known: Known) -> bytes:
    """A frame with more bytes at its end, in a message of at most the largest size."""
    more = rng.randbytes(rng.randint(1, 100)) if rng.random() < 0.5 else rng.choice(known.ours)
    return (rng.choice(known.ours) + more)[: max(map(len, known.ours))]


def with_fields(data: bytes, **values: int) -> bytes:
    """A frame with other values in its header, and the same tag and body."""
    fields = list(_HEADER.unpack_from(data))
    for name, value in values.items():
        fields[FIELDS.index(name.replace("_", " "))] = value
    return _HEADER.pack(*fields) + data[_HEADER.size :]


def huge(rng: random.Random, known: Known) -> bytes:
    """A header with the largest numbers, in the layout of today or in that of version 2, which declared the size of the body."""
    data = rng.choice(known.ours)
    if rng.random() < 0.5:
        values = {"sequence": 65_534, "of": 65_535, "step": WIDE, "epoch": WIDE, "source": 2**31 - 1, "target_incarnation": 255}
        return with_fields(data, **{name: value for name, value in values.items() if name == "of" or rng.random() < 0.5})
    size, version = rng.choice((WIDE, 1 << 31, 1 << 20)), rng.choice((2, 3))
    return struct.pack("<4sBBBBQIIiIIIII", b"FSDf", version, 1, 0, 0, int(RUN, 16), EPOCH, 0, 1, 0, size, size, 0, 0) + data[HEADER_BYTES:]


def of_another_run(rng: random.Random, known: Known) -> bytes:
    """A frame of another run, as it was sent, or with the run and the epoch of this run."""
    values = {"run": int(RUN, 16), "epoch": EPOCH}
    return with_fields(rng.choice(known.others), **{name: value for name, value in values.items() if rng.random() < 0.7})


def swapped(rng: random.Random, known: Known) -> bytes:
    """The same frame with another step, source, piece, kind or incarnation."""
    limits = {"step": STEPS, "source": WORKERS, "sequence": 3, "of": 4, "kind": 5, "source_incarnation": 3, "target_incarnation": 3}
    names = rng.sample(list(limits), rng.randint(1, 3))
    return with_fields(rng.choice(known.ours), **{name: rng.randrange(limits[name]) for name in names})


def spliced(rng: random.Random, known: Known) -> bytes:
    """Header, tag and body of three frames."""
    header, tag, body = (rng.choice(known.ours if rng.random() < 0.7 else known.others) for _ in range(3))
    return header[: _HEADER.size] + tag[_HEADER.size : HEADER_BYTES] + body[HEADER_BYTES:]


def wrong_key(rng: random.Random, known: Known) -> bytes:
    kind, body = rng.choice(list(Kind)), rng.choice(known.ours)[HEADER_BYTES:]
    key = rng.choice((rng.randbytes(32), bytes(32), RUN.encode()))
    return pack(Frame(kind, RUN, EPOCH, rng.randrange(STEPS), rng.randrange(WORKERS), 0, 1, body), RANK, key)


def random_bytes(rng: random.Random, known: Known) -> bytes:
    return (b"FSDf\x03\x01" if rng.random() < 0.7 else b"") + rng.randbytes(rng.randrange(3000))


KINDS: dict[str, Mutate] = {
    "1 to 8 flipped bits": flipped,
    "cut": cut,
    "longer": longer,
    "huge numbers in the header": huge,
    "of other runs": of_another_run,
    "swapped step, source, piece, kind": swapped,
    "spliced of three frames": spliced,
    "wrong key": wrong_key,
    "random bytes": random_bytes,
    "for another rank": lambda rng, known: rng.choice(known.elsewhere),
}


# Who gets them


class Text(AroundMessages):
    """A service that carries text."""

    def __init__(self, driver: MessageDriver) -> None:
        super().__init__(driver)
        self.limits = attrs.evolve(driver.limits, body="text")


@contextmanager
def channels(key: bytes) -> Iterator[list[QueueChannel]]:
    """The channels of one rank, of a service with bytes and of one with text. No other epoch has a lease."""
    with ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory())
        resources = PROVIDER.provisioner({"root": root}).ensure("forged", WORKERS, 1)
        pool = stack.enter_context(ThreadPoolExecutor(2))
        me = RankIdentity(RUN, EPOCH, RANK, WORKERS, time.time() + 1e6, key=key)
        expected = {step: [rank for rank in range(WORKERS) if rank != RANK] for step in range(STEPS)}
        made = []
        for text in (False, True):
            driver: MessageDriver = PROVIDER.messages(resources, 0)
            config = ChannelConfig(me, expected, Retry(me.deadline, Meter()), pool)
            made.append(QueueChannel(Text(driver) if text else driver, config))
            stack.callback(made[-1].close)
        yield made


def changed(channel: QueueChannel) -> bool:
    """Whether the channel has accepted anything."""
    box = channel.mailbox
    return bool(box.heard or box._pieces or box._complete or box.error or channel._heeded or channel.incarnations)


def give(channel: QueueChannel, data: bytes, row: Row) -> None:
    """Give one message to a channel as its receiver does, and add the result to ``row``."""
    row.messages += 1
    delivery = Delivery(f"{row.messages}", base64.b64encode(data) if channel._text else data)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        channel._take(delivery, lambda: 0)
        row.accepted += changed(channel)
    except FsdError:  # it ended the run
        row.accepted += 1
    except Exception:
        row.crashes += 1
    row.peak_bytes = max(row.peak_bytes, tracemalloc.get_traced_memory()[1] - before)
    channel._ack(everything=False)
    if len(channel._acking) > 50:
        settle(channel)


def settle(channel: QueueChannel) -> None:
    """Wait until everything is acknowledged."""
    channel._ack(everything=True)
    for task in list(channel._acking):
        task.result()


def drops(made: list[QueueChannel]) -> tuple[int, int]:
    """The strays and the frames that the channels have dropped."""
    counts = [channel.meter.snapshot() for channel in made]
    return sum(each["strays_dropped"] for each in counts), sum(each["frames_dropped"] for each in counts)


def attack(count: int, seed: int = 0) -> list[Row]:
    """Give ``count`` messages of each kind to the channels. The last row is the control: the genuine payloads, which must be accepted."""
    rng, key = random.Random(seed), new_key()
    rows = []
    with channels(key) as made:
        largest = min(channel.piece_bytes for channel in made)
        ours = frames(rng, RUN, EPOCH, key, RANK, largest)
        others = frames(rng, OTHER, EPOCH, new_key(), RANK, largest) + frames(rng, OTHER, EPOCH - 1, new_key(), RANK, largest)
        known = Known(ours, frames(rng, RUN, EPOCH, key, RANK + 1, largest), others)
        genuine = set(ours)
        tracemalloc.start()
        for name, mutate in KINDS.items():
            row, began, before, dropped = Row(name), time.perf_counter(), tracemalloc.get_traced_memory()[0], drops(made)
            while row.messages < count:
                data = mutate(rng, known)
                if data not in genuine:
                    give(made[row.messages % 2], data, row)
            del data
            for channel in made:
                settle(channel)
            row.strays, row.dropped = (now - earlier for now, earlier in zip(drops(made), dropped, strict=True))
            row.seconds, row.kept_bytes = time.perf_counter() - began, tracemalloc.get_traced_memory()[0] - before
            rows.append(row)
        tracemalloc.stop()
        control, dropped = Row("control: genuine payloads"), drops(made)
        for data in ours:
            if data[5] == Kind.PAYLOAD:
                for channel in made:
                    control.messages += 1
                    channel._take(Delivery("genuine", base64.b64encode(data) if channel._text else data), lambda: 0)
        control.strays, control.dropped = (now - earlier for now, earlier in zip(drops(made), dropped, strict=True))
        control.accepted = control.messages - control.strays - control.dropped
    return [*rows, control]


def limit_bytes() -> int:
    """The memory that a channel may take for one message."""
    return messages(1.0).message_bytes + SLACK_BYTES


def right(row: Row) -> bool:
    """Whether no message of a kind was accepted, crashed the channel, or took more memory than the limit."""
    return row.accepted == row.crashes == 0 and row.peak_bytes <= limit_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000, help="messages of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    *rows, control = attack(-(-options.frames // len(KINDS)), options.seed)
    names = [field.name for field in attrs.fields(Row) if field.name not in ("kind", "peak_bytes", "kept_bytes", "seconds")]
    total = Row("together", **{name: sum(getattr(row, name) for row in rows) for name in names})
    total.peak_bytes, total.seconds = max(row.peak_bytes for row in rows), sum(row.seconds for row in rows)
    total.kept_bytes = sum(row.kept_bytes for row in rows)
    print(f"{'':34} {'messages':>9} {'strays':>8} {'dropped':>8} {'accepted':>8} {'crashes':>7} {'peak KB':>7} {'kept KB':>7} {'s':>6}")
    for row in (*rows, total, control):
        counts = f"{row.messages:9,} {row.strays:8,} {row.dropped:8,} {row.accepted:8,} {row.crashes:7,}"
        print(f"{row.kind:34} {counts} {row.peak_bytes / 1024:7.0f} {row.kept_bytes / 1024:7.0f} {row.seconds:6.1f}")
    print(f"limit of the peak: {limit_bytes() // 1024} KB; a copy of a message that comes a second time is neither a stray nor dropped")
    return 0 if all(map(right, rows)) and control.accepted == control.messages else 1


if __name__ == "__main__":
    sys.exit(main())
