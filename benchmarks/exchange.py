"""Measures one step of the exchange over each channel, without computing: each of P processes sends to all others.

    python benchmarks/exchange.py [--workers 8] [--sizes 1,10,200] [--steps 60] [--rounds 3]

The channels take turns (A, B, C, A, B, C, ...), and the figures are over all rounds. The time of a step is that of its slowest rank.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fsd_core.channel import Channel, ChannelConfig, HybridChannel, ObjectChannel, QueueChannel, RankIdentity
from fsd_core.providers.registry import find
from fsd_core.storage.keys import new_run
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

CHANNELS = ("queue", "object", "hybrid")


def work(root: str, kind: str, run: str, epoch: int, rank: int, workers: int, size: int, steps: int, warm: int) -> list[float]:
    """One rank: the duration of each step in seconds, without the first ``warm`` steps."""
    provider = find("local")
    resources = provider.provisioner({"root": root}).ensure("bench", workers, 1)
    deadline = time.time() + 300
    retry, pool = Retry(deadline, Meter()), ThreadPoolExecutor(16)
    me = RankIdentity(run, epoch, rank, workers, deadline)
    peers = [peer for peer in range(workers) if peer != rank]
    expected = dict.fromkeys(range(steps + warm), peers)
    store = Store(provider.objects(resources), retry)
    channel: Channel
    if kind == "object":
        channel = ObjectChannel(store, ChannelConfig(me, expected, retry, pool, eager=True))
    elif kind == "hybrid":
        channel = HybridChannel(provider.messages(resources, 0), store, ChannelConfig(me, expected, retry, pool))
    else:
        channel = QueueChannel(provider.messages(resources, 0), ChannelConfig(me, expected, retry, pool))
    payload = os.urandom(size)
    times = []
    for step in range(steps + warm):
        began = time.monotonic()
        channel.send(step, ((peer, payload) for peer in peers))
        for _, data in channel.receive(step):
            assert len(data) == size
        times.append(time.monotonic() - began)
    channel.finish()
    channel.close()
    pool.shutdown()
    return times[warm:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--sizes", default="1,10,200", help="sizes of the payloads in KB, separated by commas")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    workers = options.workers
    print(f"{workers} processes, {os.cpu_count()} cores, {options.rounds} rounds of {options.steps} steps; ms, ratio of medians to queue")
    print(f"{'KB':>5} {'channel':8} {'median':>8} {'p99':>8} {'messages/s':>11} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as root, multiprocessing.get_context("spawn").Pool(workers) as pool:
        epoch = 0
        for size in [int(float(text) * 1024) for text in options.sizes.split(",")]:
            times: dict[str, list[float]] = {kind: [] for kind in CHANNELS}
            for _ in range(options.rounds):
                for kind in CHANNELS:
                    epoch += 1
                    common = (root, kind, new_run(), epoch)
                    ranks: Iterable[list[float]] = pool.starmap(
                        work, [(*common, rank, workers, size, options.steps, 5) for rank in range(workers)], chunksize=1
                    )
                    times[kind] += np.max(list(ranks), axis=0).tolist()
            base = float(np.median(times["queue"]))
            for kind in CHANNELS:
                median, p99 = np.median(times[kind]), np.percentile(times[kind], 99)
                rate = workers * (workers - 1) / np.mean(times[kind])
                print(f"{size / 1024:5.0f} {kind:8} {median * 1e3:8.2f} {p99 * 1e3:8.2f} {rate:11.0f} {median / base:6.2f}", flush=True)


if __name__ == "__main__":
    main()
