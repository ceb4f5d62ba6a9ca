"""Cases of core's queue channel on a provider's queues: duplicates, refusals, late messages, messages of another run."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial

import pytest
from attrs import evolve

from fsd_conformance.base import RANKS, Cases, Deployed, eventually, new_retry
from fsd_core.channel import ChannelConfig, QueueChannel, RankIdentity, describe
from fsd_core.channel.frames import KEY_BYTES, Frame, Kind, pack
from fsd_core.driver import Code, Message, MessageDriver, Rejected
from fsd_core.errors import RunFailed
from fsd_core.storage import slots
from fsd_core.storage.keys import new_run
from fsd_core.storage.keys import slot as slot_key
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.wrappers.around import AroundMessages
from fsd_core.wrappers.faults import Faults, FaultyMessages

__all__ = ["ChannelCases"]

OTHER = "0b" * 8  # the id of another run
STEPS = 4
Make = Callable[..., QueueChannel]


class ChannelCases(Cases):
    """Each case leases a slot, and releases it with the epoch of the newest message that the case sent."""

    within_s = 120.0  # each channel's deadline

    @pytest.fixture
    def make(self, deployed: Deployed) -> Iterator[Make]:
        """A function that makes the channel of a rank; see `making`."""
        with self.making(deployed) as make:
            yield make

    @contextmanager
    def making(self, deployed: Deployed) -> Iterator[Make]:
        """A function that makes the channel of a rank. ``around``: wraps the channel's driver. ``eager``: the driver is a direct one."""
        with ExitStack() as stack:
            objects = stack.enter_context(closing(deployed.provider.objects(deployed.resources)))
            store = Store(objects, new_retry())
            mine = new_run()
            leased = slots.lease(store, deployed.resources.slots, mine, 2 * self.within_s)
            stack.callback(slots.release, store, evolve(leased, epoch=leased.epoch + 1))

            def make(
                rank: int,
                expected: Mapping[int, Collection[int]] | None = None,
                *,
                run: str = mine,
                later: int = 0,
                eager: bool = False,
                around: Callable[[MessageDriver], MessageDriver] = lambda driver: driver,
            ) -> QueueChannel:
                driver = stack.enter_context(closing(deployed.provider.messages(deployed.resources, leased.slot, direct=eager)))
                pool = stack.enter_context(ThreadPoolExecutor(4))
                if later > 0:
                    store.put(slot_key(leased.slot, leased.epoch + later), b"{}")
                key = f"{run}, {later}".encode().ljust(KEY_BYTES)  # a run has its own key, and one epoch
                me = RankIdentity(run, leased.epoch + later, rank, RANKS, time.time() + self.within_s, key=key)
                newest = partial(slots.newest_epoch, store, leased.slot)
                config = ChannelConfig(me, expected or {}, Retry(me.deadline, Meter()), pool, eager=eager, newest_epoch=newest)
                return stack.enter_context(closing(QueueChannel(around(driver), config)))

            yield make

    def test_only_its_own_run_is_heard(self, make: Make) -> None:
        """A channel drops messages of an earlier run, of another run and of other programs. It never drops a message of its own run."""
        make(1, run=OTHER, later=-1).send(0, [(0, b"older")])
        make(1, run=OTHER).send(0, [(0, b"another run's")])
        stranger = make(1, run=OTHER, later=-1)
        stranger.publish([Message(0, b"hello"), Message(0, stranger.message(0, Kind.PAYLOAD, 0, 0, 1, b"cut").body[:40])])
        make(1).send(1, [(0, b"later step")])
        receiver = make(0, {0: [1], 1: [1]})
        make(1).send(0, [(0, b"mine")])
        assert [list(receiver.receive(step)) for step in (0, 1)] == [[(1, b"mine")], [(1, b"later step")]]
        receiver.finish()
        left = make(0, {2: [1]})
        left.prepare(2)  # no message of the run comes, so it reads all strays
        eventually("strays dropped", 60, lambda: _drops(receiver, left) >= 4)

    def test_a_newer_runs_message_is_left_to_it(self, make: Make) -> None:
        """A message of a newer epoch shows that the run has lost its slot: the run ends, and the newer run gets the message."""
        make(1, run=OTHER, later=1).send(0, [(0, b"for the newer")])
        fenced = make(0, {0: [1]})
        with pytest.raises(RunFailed, match="lease lost") as caught:
            list(fenced.receive(0))
        assert caught.value.code is Code.PRECONDITION
        newer = make(0, {0: [1]}, run=OTHER, later=1)
        assert list(newer.receive(0)) == [(1, b"for the newer")]
        newer.finish()

    def test_damaged_and_forged_messages_are_dropped(self, make: Make) -> None:
        """A channel drops what was cut or changed in transit, what others wrote, and what was for another rank. The run goes on."""
        sender, key = make(1), bytes(KEY_BYTES)
        text = sender.driver.limits.body == "text"

        def publish(body: bytes) -> None:
            sender.publish([Message(0, base64.b64encode(body) if text else body)])

        sound = sender.message(0, Kind.PAYLOAD, 0, 0, 1, b"x" * 40).body
        sound = base64.b64decode(sound) if text else sound
        for damaged in (sound[:-1], sound[:-1] + bytes([sound[-1] ^ 1]), sound + b"x"):
            publish(damaged)
        abort = describe(RunFailed(Code.UNAVAILABLE, "forged", rank=1))
        for kind, epoch, body in ((Kind.PAYLOAD, 0, b"forged"), (Kind.ABORT, 0, abort), (Kind.PAYLOAD, 9, b"of an epoch that no run has")):
            publish(pack(Frame(kind, sender.me.run, sender.me.epoch + epoch, 0, 1, 0, 1, body), 0, key))
        publish(pack(Frame(Kind.PAYLOAD, sender.me.run, sender.me.epoch, 0, 1, 0, 1, b"for rank 2"), 2, sender.me.key))
        receiver = make(0, {0: [1], 1: [1]})
        receiver.prepare(0)
        eventually("frames dropped", 60, lambda: receiver.meter.snapshot()["frames_dropped"] >= 7)
        sender.send(0, [(0, b"sound")])
        sender.send(1, [(0, b"next")])
        assert [list(receiver.receive(step)) for step in (0, 1)] == [[(1, b"sound")], [(1, b"next")]]
        receiver.finish()

    def test_a_payload_over_the_batch_size_is_split(self, make: Make) -> None:
        """A channel sends a payload that is larger than ``batch_bytes`` in several publishes, each within the limits."""
        spy = Spy.of(sender := make(1, around=Spy))
        limits = spy.limits
        pieces = limits.batch_bytes // (limits.message_bytes + limits.overhead_bytes) + 1
        if pieces > limits.batch_messages:
            pytest.skip("batch_messages messages of the largest size are within batch_bytes")
        payload = secrets.token_bytes(sender.piece_bytes) * pieces
        sender.send(0, [(0, payload)])
        receiver = make(0, {0: [1]})
        assert list(receiver.receive(0)) == [(1, payload)]
        receiver.finish()
        sender.finish()
        assert sum(map(len, spy.accepted)) == pieces
        assert len(spy.accepted) > 1
        assert max(sum(len(body) + limits.overhead_bytes for body in batch) for batch in spy.accepted) <= limits.batch_bytes

    def test_refused_entries_alone_are_sent_again(self, make: Make) -> None:
        """After a publish that was refused in part, the channel sends only the refused entries again."""
        sender = make(1, around=lambda driver: FaultyMessages(Spy(driver), Faults(reject=0.5, seed=1), 0))
        steps = range(min(10, sender.driver.limits.batch_messages))
        batch = [sender.message(0, Kind.PAYLOAD, step, 0, 1, b"%d" % step) for step in steps]
        sender.publish(batch)
        spy = Spy.of(sender)
        assert sorted(body for bodies in spy.accepted for body in bodies) == sorted(message.body for message in batch)
        assert len(spy.accepted) > 1
        receiver = make(0, {step: [1] for step in steps})
        assert [list(receiver.receive(step)) for step in steps] == [[(1, b"%d" % step)] for step in steps]
        receiver.finish()

    def test_an_eager_channel_delivers_once(self, make: Make) -> None:
        """With two copies of each payload, several open receives and direct drivers, each payload arrives once, in its step."""
        spies: dict[int, Spy] = {}

        def work(rank: int) -> None:
            peers = [peer for peer in range(RANKS) if peer != rank]
            channel = make(rank, dict.fromkeys(range(STEPS), peers), eager=True, around=Spy)
            spies[rank] = Spy.of(channel)
            for step in range(STEPS):
                channel.send(step, ((peer, b"%d %d %d" % (step, rank, peer)) for peer in peers))
                assert sorted(channel.receive(step)) == [(peer, b"%d %d %d" % (step, peer, rank)) for peer in peers]
            channel.finish()

        with ThreadPoolExecutor(RANKS) as pool:
            list(pool.map(work, range(RANKS)))
        for spy in spies.values():
            assert STEPS * (RANKS - 1) <= sum(map(len, spy.accepted)) <= 2 * STEPS * (RANKS - 1)

    def test_copies_and_disorder_change_nothing(self, make: Make) -> None:
        """Duplicates and reordering change no exchange: each payload arrives once, in its step."""
        faults = Faults(duplicate=0.5, reorder=0.5, delay=0.02, seed=2)

        def work(rank: int) -> int:
            peers = [peer for peer in range(RANKS) if peer != rank]
            channel = make(rank, dict.fromkeys(range(STEPS), peers), around=lambda driver: FaultyMessages(driver, faults, rank))
            for step in range(STEPS):
                channel.send(step, ((peer, b"%d %d %d" % (step, rank, peer)) for peer in peers))
                assert sorted(channel.receive(step)) == [(peer, b"%d %d %d" % (step, peer, rank)) for peer in peers]
            channel.finish()
            return channel.meter.snapshot()["duplicates_dropped"]

        with ThreadPoolExecutor(RANKS) as pool:
            assert sum(pool.map(work, range(RANKS))) > 0


class Spy(AroundMessages):
    """Records the bodies that the service accepted, one list for each publish."""

    def __init__(self, driver: MessageDriver) -> None:
        super().__init__(driver)
        self.accepted: list[list[bytes]] = []

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """See `MessageDriver.publish`."""
        refused = super().publish(messages)
        gone = {each.index for each in refused}
        self.accepted.append([message.body for index, message in enumerate(messages) if index not in gone])
        return refused

    @staticmethod
    def of(channel: QueueChannel) -> Spy:
        """The spy around a channel's driver, or inside a wrapper of it."""
        found = channel.driver if isinstance(channel.driver, Spy) else vars(channel.driver)["_driver"]
        assert isinstance(found, Spy)
        return found


def _drops(*channels: QueueChannel) -> int:
    return sum(channel.meter.snapshot()[name] for channel in channels for name in ("strays_dropped", "frames_dropped"))
