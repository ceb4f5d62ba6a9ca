"""Computes ONNX models stage by stage in this process, with everything that a run uses except its services and processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fsd_core.client.stages import Stages
from fsd_core.codec import decode_tensors, encode_tensors
from fsd_core.protocol.stage_shard import StageReader
from fsd_core.worker.session import Session

__all__ = ["PLANNED", "computed", "whole"]

# What follows from the plan of a run; polls, receives and late acks follow from time.
PLANNED = ("payload_bytes_sent", "message_bytes_sent", "messages_sent", "publish_requests", "publish_units", "messages_received")
PLANNED += ("object_puts", "object_bytes_written", "object_bytes_read", "invocations")


def computed(work: Stages, pool: ThreadPoolExecutor, *, lean: bool = False) -> dict[str, NDArray[Any]]:
    """The outputs of the model. Every tensor travels as bytes, and a rank has only what its shard says."""
    shards, batches = work.shards(), work.sizes()
    pieces, places = work.inputs(batches)
    ranks: list[tuple[StageReader, list[Session]]] = []
    for part in range(shards.count):
        shard = shards.build(part)
        reader = StageReader("k", lambda _, start, end, shard=shard: shard[start:end], pool)  # type: ignore[misc]  # a default binds it
        ranks.append((reader, [Session(*each, prepack=not lean) for each in reader.load(lambda: None, lean=lean)]))
    order = sorted(
        (
            (section.step, part, section, session)
            for part, (reader, sessions) in enumerate(ranks)
            for section, session in zip(reader.head.sections, sessions, strict=True)
        ),
        key=lambda each: each[:2],
    )
    slices = []
    for batch, _ in enumerate(batches):
        sent: dict[tuple[int, int, int], bytes] = {}  # by source, target and step
        have = [dict[str, NDArray[Any]]() for _ in ranks]
        for part, (reader, _) in enumerate(ranks):
            place = places[batch][part]
            if place is not None:
                have[part] = decode_tensors(pieces.build(place), reader.head.inputs)
        for step, part, section, session in order:
            tensors = have[part]
            for transfer in section.receives:
                tensors |= decode_tensors(sent.pop((transfer.rank, part, step)), transfer.names)
            assert set(section.reads) <= set(tensors)
            tensors |= session.run({name: tensors[name] for name in section.reads}, section.gives)
            for transfer in section.sends:
                sent[part, transfer.rank, transfer.step] = encode_tensors({name: tensors[name] for name in transfer.names})
            have[part] = {name: array for name, array in tensors.items() if name in section.keeps}
        assert not sent
        written = [encode_tensors({name: have[part][name] for name in ranks[part][0].head.outputs}) for part in work.last]
        slices.append([work.slice(data, writer, batches[batch]) for writer, data in enumerate(written)])
    return work.assemble(slices, batches, lambda done, total: None)


def whole(path: Path, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What ONNX Runtime computes with the whole file, with its own default options."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    read = {each.name for each in session.get_inputs()}
    found = session.run(names, {name: array for name, array in inputs.items() if name in read})
    return {name: np.asarray(array) for name, array in zip(names, found, strict=True)}
