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


def computed(work: Stages, pool: ThreadPoolExecutor) -> dict[str, NDArray[Any]]:
    """The outputs of the model. Every tensor travels as bytes, and a stage has only what its shard says."""
    shards, batches = work.shards(), work.sizes()
    pieces, places = work.inputs(batches)
    stages = []
    for part in range(work.layers):
        shard = shards.build(part)
        reader = StageReader("k", lambda _, start, end, shard=shard: shard[start:end], pool)  # type: ignore[misc]  # a default binds it
        stages.append((reader, Session(*reader.load(lambda: None), prepack=True) if reader.gives else None))
    slices = []
    for batch, samples in enumerate(batches):
        sent: dict[tuple[int, int], bytes] = {}
        written = {}
        for part, (reader, session) in enumerate(stages):
            place, tensors = places[batch][part], dict[str, NDArray[Any]]()
            if place is not None:
                tensors |= decode_tensors(pieces.build(place), reader.head.inputs)
            for source, names in reader.receives.items():
                tensors |= decode_tensors(sent[source, part], names)
            found = {} if session is None else session.run(tensors, reader.gives)
            for number, names in reader.sends.items():
                sent[part, number - 1] = encode_tensors({name: found[name] for name in names})
            written[part] = encode_tensors({name: found[name] for name in reader.head.outputs})
        slices.append([work.slice(written[part], writer, samples) for writer, part in enumerate(work.last)])
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
