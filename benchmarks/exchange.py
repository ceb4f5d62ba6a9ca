"""Measures one step of the exchange over each channel, without computing: each of P processes sends to all others.

    python benchmarks/exchange.py [--workers 8] [--sizes 1,10,200] [--steps 60] [--rounds 3] [--providers local,redis]

Providers and channels take turns (A, B, C, A, B, C, ...), and the figures are over all rounds. The time of a step is that of its slowest
rank. ``CPU ms`` is the processor time of all ranks together for one step; for a provider with a server on this machine that reports its own
(Redis: INFO), ``server`` is that of the server.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fsd_core.channel import Channel, ChannelConfig, HybridChannel, ObjectChannel, QueueChannel, RankIdentity
from fsd_core.driver import Resources
from fsd_core.providers.registry import find
from fsd_core.storage.keys import new_run
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

CHANNELS = ("queue", "object", "hybrid")


def work(
    name: str, resources: Resources, kind: str, run: str, epoch: int, rank: int, workers: int, size: int, steps: int, warm: int
) -> tuple[list[float], float]:
    """One rank: the duration of each step after the first ``warm`` steps, and the processor time of these steps. In seconds."""
    provider = find(name)
    deadline = time.time() + 300
    retry, pool = Retry(deadline, Meter()), ThreadPoolExecutor(16)
    me = RankIdentity(run, epoch, rank, workers, deadline, key=bytes(32))
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
    times, cpu = [], 0.0
    for step in range(steps + warm):
        if step == warm:
            cpu = time.process_time()
        began = time.monotonic()
        channel.send(step, ((peer, payload) for peer in peers))
        for _, data in channel.receive(step):
            assert len(data) == size
        times.append(time.monotonic() - began)
    cpu = time.process_time() - cpu
    channel.finish()
    channel.close()
    pool.shutdown()
    return times[warm:], cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--sizes", default="1,10,200", help="sizes of the payloads in KB, separated by commas")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--providers", default="local", help="names of providers, separated by commas")
    parser.add_argument("--channels", default=",".join(CHANNELS))
    options = parser.parse_args()
    workers = options.workers
    print(
        f"{workers} processes, {os.cpu_count()} cores, {options.rounds} rounds of {options.steps} steps; ms, ratio of medians to the first"
    )
    print(f"{'KB':>5} {'provider':8} {'channel':8} {'median':>8} {'p99':>8} {'messages/s':>11} {'ratio':>6} {'CPU ms':>7} {'server':>7}")
    cases = [(name, kind) for kind in options.channels.split(",") for name in options.providers.split(",")]
    with tempfile.TemporaryDirectory() as root:
        provisioners = {name: find(name).provisioner({"root": root} if name == "local" else {}) for name, _ in cases}
        apps = {name: made.ensure("bench", workers, 1) for name, made in provisioners.items()}
        epoch = 0
        with multiprocessing.get_context("spawn").Pool(workers) as pool:  # after the servers of a provider, whose addresses it inherits
            for size in [int(float(text) * 1024) for text in options.sizes.split(",")]:
                times: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
                spent, served = dict.fromkeys(cases, 0.0), dict.fromkeys(cases, 0.0)
                for _ in range(options.rounds):
                    for case in cases:
                        epoch += 1
                        common, before = (case[0], apps[case[0]], case[1], new_run(), epoch), served_s(case[0], apps[case[0]])
                        work_of = [(*common, rank, workers, size, options.steps, 5) for rank in range(workers)]
                        ranks: Iterable[tuple[list[float], float]] = pool.starmap(work, work_of, chunksize=1)
                        served[case] += served_s(case[0], apps[case[0]]) - before
                        times[case] += np.max([each for each, _ in ranks], axis=0).tolist()
                        spent[case] += sum(cpu for _, cpu in ranks)
                base = float(np.median(times[cases[0]]))
                for case in cases:
                    median, p99 = np.median(times[case]), np.percentile(times[case], 99)
                    rate, steps = workers * (workers - 1) / np.mean(times[case]), options.rounds * options.steps
                    cpu = f"{spent[case] / steps * 1e3:7.2f} {served[case] / (steps + 5 * options.rounds) * 1e3:7.2f}"
                    row = (
                        f"{size / 1024:5.0f} {case[0]:8} {case[1]:8} {median * 1e3:8.2f} {p99 * 1e3:8.2f} {rate:11.0f} {median / base:6.2f}"
                    )
                    print(f"{row} {cpu}", flush=True)
        for made in provisioners.values():
            made.destroy("bench")


def served_s(name: str, resources: Resources) -> float:
    """The processor time in seconds of the provider's server, or 0 if the provider has none that reports it."""
    client: Any = find(name).messages(resources, 0).native()
    info = client.info("cpu") if hasattr(client, "info") else {}
    return float(info.get("used_cpu_user", 0.0)) + float(info.get("used_cpu_sys", 0.0))


if __name__ == "__main__":
    main()
