"""The requests, messages and bytes of a run that follow from its split, by the rules of the channels. Time decides the rest: `simulate`."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.channel.hybrid import NOTICE_BYTES
from fsd_core.channel.objects import HEAD_BYTES, bundle_bytes
from fsd_core.channel.packing import batched, body_bytes, copies, piece_bytes, piece_sizes
from fsd_core.driver import MessageLimits
from fsd_core.plan.split import EMPTY_BYTES, Split, Step
from fsd_core.providers.outline import Outline

__all__ = ["RECORD_BYTES", "Exchange", "Fixed", "exchange", "fixed"]

# Bytes of the small objects of a run, as measured: a claim, a lease and its release, a rank's record with its timeline and lines, the
# configuration with a key for each shard and input, and an entry of the audit log, which is longer where resources have long names.
CLAIM_BYTES, LEASE_BYTES, RECORD_BYTES, CONFIG_BYTES, KEY_BYTES, ENTRY_BYTES = 258, 82, 2450, 490, 90, 1800
DONE = b"done"  # what a rank with outputs sends to rank 0 in the last step


@attrs.frozen(eq=False)
class Exchange:
    """One step of one micro-batch. Arrays have a number for each pair of ranks of the step.

    ``counts``: what all ranks of a replica request, by the names of the meter.
    """

    step: Step
    payloads: NDArray[np.float64]  # bytes
    pieces: NDArray[np.float64]  # messages of each payload; 0: it travels in an object
    wire: NDArray[np.float64]  # bytes that the source sends before the target can have the payload
    stored: NDArray[np.bool_]  # the payload travels in an object
    second_get: NDArray[np.bool_]  # the target needs a second request for it
    counts: Counter[str]


@lru_cache(4096)  # cold and warm starts have the same
def exchange(step: Step, share: float, channel: str, eager: bool, outline: Outline) -> Exchange:
    """What a step requests for a share of the samples."""
    sizes = step.payloads(share)
    payloads = [int(each) for each in sizes.tolist()]
    limits, hybrid = outline.messages, channel == "hybrid"
    counts: Counter[str] = Counter(payload_bytes_sent=sum(payloads))
    stored = [channel == "object" or (hybrid and each > piece_bytes(limits)) for each in payloads]
    pieces, wire, second_get = [float(hybrid or not each) for each in stored], [0.0] * len(payloads), [False] * len(payloads)
    targets, of_source = step.targets.tolist(), dict[int, list[int]]()
    for pair, source in enumerate(step.sources.tolist()):
        of_source.setdefault(source, []).append(pair)
    for mine in of_source.values():
        entries: list[tuple[int, int]] = []  # target, bytes of the body
        owners: list[int] = []
        bundled = [pair for pair in mine if stored[pair]]
        for pair in mine:
            if not stored[pair]:
                parts = piece_sizes(payloads[pair], limits)
                pieces[pair] = float(len(parts))
                entries += [(targets[pair], body_bytes(size, limits)) for size in parts]
                owners += [pair] * len(parts)
        if eager:
            publishes = _eager(entries, owners, outline)
        else:
            publishes = _publishes(tuple((outline.route(target), size) for target, size in entries), limits)
        for numbers in publishes:
            bodies = [entries[number][1] for number in numbers]
            size = _publish(counts, bodies, outline, copies(sum(bodies), limits) if eager else 1)
            for number in numbers:
                wire[owners[number]] = max(wire[owners[number]], float(size))
        if bundled:
            total = sum(payloads[pair] for pair in bundled)
            size = bundle_bytes([payloads[pair] for pair in bundled])
            counts.update(object_puts=1, object_bytes_written=size)
            for pair in bundled:
                wire[pair] = float(size)
            if hybrid:
                notices = [(targets[pair], body_bytes(NOTICE_BYTES, limits)) for pair in bundled]
                for numbers in [[number] for number in range(len(notices))] if eager else batched(notices, outline.route, limits):
                    _publish(counts, [notices[number][1] for number in numbers], outline, 2 if eager else 1)
                counts.update(object_gets=len(bundled), object_bytes_read=total)
            else:
                end, read = size - total, len(bundled) * min(size, HEAD_BYTES)  # the end of the payloads before, in the bundle
                for pair in bundled:
                    end += payloads[pair]
                    second_get[pair] = end > HEAD_BYTES
                    read += min(max(0, end - HEAD_BYTES), payloads[pair])
                counts.update(object_gets=sum(second_get[pair] for pair in bundled), object_bytes_read=read)
    return Exchange(step, sizes, np.array(pieces), np.array(wire), np.array(stored, bool), np.array(second_get, bool), counts)


@lru_cache(4096)  # in a dense layer all sources send the same
def _publishes(entries: tuple[tuple[int, int], ...], limits: MessageLimits) -> list[list[int]]:
    """The publishes of messages, of which each has a route and the bytes of its body."""
    return list(batched(entries, lambda route: route, limits))


def _eager(entries: list[tuple[int, int]], owners: list[int], outline: Outline) -> list[list[int]]:
    """The publishes of a channel that sends each payload at once."""
    found: list[list[int]] = []
    for pair in dict.fromkeys(owners):
        numbers = [number for number, owner in enumerate(owners) if owner == pair]
        batches = batched([entries[number] for number in numbers], outline.route, outline.messages)
        found += [[numbers[index] for index in batch] for batch in batches]
    return found


def _publish(counts: Counter[str], bodies: list[int], outline: Outline, times: int = 1) -> int:
    """Count a publish that is made so many times, and what its messages cause at the receivers. Returns the bytes of one."""
    limits = outline.messages
    sizes = [body + limits.overhead_bytes for body in bodies]
    units = [max(1, -(-size // limits.billing_bytes)) for size in sizes]
    total = sum(sizes)
    one = {"publish_requests": 1, "publish_units": max(1, -(-total // limits.billing_bytes)), "message_bytes_sent": total}
    one |= {"direct_units": one["publish_units"], "direct_bytes_sent": total} if limits.direct else {}
    one |= {"messages_sent": len(sizes), "message_units_sent": sum(units)}
    one |= {"messages_received": len(sizes), "message_units_received": sum(units)}
    counts.update({name: times * count for name, count in one.items()})
    return total


@attrs.frozen(eq=False)
class Fixed:
    """What a run requests apart from its exchanges, and the bytes of one micro-batch that each rank of a replica reads and writes."""

    counts: Counter[str]
    input_bytes: NDArray[np.float64]  # (ranks,); 0: the rank reads no input
    output_bytes: NDArray[np.float64]  # (ranks,); 0: the rank writes no output


def fixed(split: Split, channel: str, outline: Outline, *, staged: bool, keep: bool, latency_bytes: int = 0) -> Fixed:
    """The requests of the client and of the workers apart from exchanges, polls and progress.

    ``staged``: weights and inputs are in the store already. ``keep``: workers keep their weights from one micro-batch to the next.
    ``latency_bytes``: of a table of latencies in the configuration.
    """
    shape, layers = split.parallel, split.layers
    ranks, workers, batches = shape.parts, shape.workers, len(split.batches)
    counts: Counter[str] = Counter()
    again = batches / shape.data if not keep else 1.0
    heads = np.array([each[0] for each in split.reads])
    rest = np.array([sum(each[1:]) for each in split.reads])
    gets = again * sum(len(each) - 1 for each in split.reads)
    counts.update(object_gets=int(workers + shape.data * gets))
    counts.update(object_bytes_read=int(shape.data * (heads.sum() + again * rest.sum())))
    inputs = np.where(split.input_bytes > 0, EMPTY_BYTES + split.input_bytes * split.share, 0.0)
    readers = int((inputs > 0).sum())
    counts.update(object_gets=readers * batches, object_bytes_read=int(inputs.sum() * batches))
    if not staged:
        puts = ranks + 1 + readers * batches + 1
        counts.update(object_puts=puts, object_bytes_written=int(heads.sum() + rest.sum() + inputs.sum() * batches))
    counts.update(object_gets=2)  # the manifests
    outputs = np.where(split.output_bytes > 0, EMPTY_BYTES + split.output_bytes * split.share, 0.0)
    writers = int((outputs > 0).sum())
    config = CONFIG_BYTES + latency_bytes + KEY_BYTES * (ranks + batches * ranks)
    counts.update(object_puts=writers * batches, object_bytes_written=int(outputs.sum() * batches))  # written, and collected
    counts.update(object_gets=writers * batches, object_bytes_read=int(outputs.sum() * batches))
    # A worker looks for an abort, claims, reads the configuration, and writes its record, which the client reads.
    counts.update(object_gets=3 * workers, object_puts=2 * workers, invocations=workers)
    counts.update(object_bytes_read=workers * (config + RECORD_BYTES), object_bytes_written=workers * (CLAIM_BYTES + RECORD_BYTES))
    # The client leases and releases a slot, lists what the run left, and writes the configuration; it reads its last entry of the audit
    # log and writes the next one.
    counts.update(object_lists=2 + int(workers * (3 + layers / 100) / outline.objects.page_keys), object_puts=4, object_gets=1)
    counts.update(object_bytes_written=config + LEASE_BYTES + ENTRY_BYTES, object_bytes_read=ENTRY_BYTES)
    done = writers * shape.data - int(outputs[0] > 0)  # ranks that tell rank 0 that their output is written
    if workers > 1 and channel == "object":
        counts.update(object_puts=done, object_bytes_written=done * bundle_bytes([len(DONE)]))
        counts.update(object_bytes_read=done * bundle_bytes([len(DONE)]))
    elif workers > 1:
        for _ in range(done):
            _publish(counts, [body_bytes(len(DONE), outline.messages)], outline)
    return Fixed(counts, inputs, outputs)
