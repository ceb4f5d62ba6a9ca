"""Measures the codec: bytes, and GB/s of encoding and decoding, against the paper's format and against byte planes with zstd.

    python benchmarks/codec.py --data FOLDER [--workers 8] [--layers 120] [--rounds 5]

The blocks are those that the ranks of a hypergraph partition send each other: of the official model of the Graph Challenge with its images
(--data; else a RadiX-Net of 1024 neurons on the digits), and of the same network with signed-normal weights, where samples stay live and
nothing is saturated. The codecs take turns (A, B, C, A, B, C, ...); the figures are medians over the rounds, in CPU seconds. GB/s count
the activations of live samples as float32.

- triples: (row, column, value) of each nonzero value in float32 and int32, compressed by zlib at level 3, as in FSD-Inference (ICDE 2024)
- planes: live samples as a bitmap, and the four byte planes of their activations, compressed by zstd at level 3
- fsd: the codec of this project, with the state of a micro-batch
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import zstandard
from numpy.typing import NDArray

from fsd_core.codec import Decoder, Encoder, pack
from fsd_core.kernel import Block
from fsd_core.model import Model, radixnet
from fsd_core.model.activation import activate
from fsd_core.model.inputs import open_inputs
from fsd_core.partition import ExchangePlan, partition
from graphchallenge import load


@attrs.frozen(eq=False)
class Sent:
    """One payload: ``rows`` of a layer go from rank ``source`` to rank ``target``."""

    source: int
    target: int
    block: Block


def sent(model: Model, images: Any, workers: int, layers: int) -> list[Sent]:
    """What the ranks send each other before the first ``layers`` layers, in the order of the layers."""
    plan = ExchangePlan(model, partition(model, workers))
    x = np.zeros((model.inputs, 1 + images.shape[0]), np.float32)  # column 0 is an input of zeros
    x[:, 1:] = images.toarray().T
    live, found = np.arange(images.shape[0], dtype=np.int32), []
    for number, layer in enumerate(model.layers[:layers], 1):
        block = Block(x, live, images.shape[0]).trimmed()
        x, live = block.values, block.live
        if number > 1:
            found += [Sent(s, t, block.take(rows)) for s in range(workers) for t, rows in plan.sends(number, s).items()]
        matrix: Any = layer.weights.scipy() if hasattr(layer.weights, "scipy") else layer.weights
        x = activate(np.asarray(matrix @ x), layer.bias, layer.activation, layer.clip, layer.challenge)
    return found


def triples(blocks: Sequence[Sent]) -> list[bytes]:
    out = []
    for each in blocks:
        rows, columns = np.nonzero(each.block.values)
        parts = (rows.astype(np.int32), columns.astype(np.int32), each.block.values[rows, columns])
        out.append(zlib.compress(b"".join(part.tobytes() for part in parts), 3))
    return out


def from_triples(payloads: Sequence[bytes], blocks: Sequence[Sent]) -> list[NDArray[np.float32]]:
    out = []
    for data, each in zip(payloads, blocks, strict=True):
        rows, columns, values = np.frombuffer(zlib.decompress(data), np.int32).reshape(3, -1)
        made = np.zeros(each.block.values.shape, np.float32)
        made[rows, columns] = values.view(np.float32)
        out.append(made)
    return out


def planes(blocks: Sequence[Sent]) -> list[bytes]:
    compress = zstandard.ZstdCompressor(level=3).compress
    out = []
    for each in blocks:
        flags = np.zeros(each.block.samples, bool)
        flags[each.block.live] = True
        bytes_ = np.ascontiguousarray(each.block.values).view(np.uint8).reshape(-1, 4)
        out.append(compress(np.packbits(flags).tobytes() + bytes_.T.tobytes()))
    return out


def from_planes(payloads: Sequence[bytes], blocks: Sequence[Sent]) -> list[NDArray[np.float32]]:
    decompress = zstandard.ZstdDecompressor().decompress
    out = []
    for data, each in zip(payloads, blocks, strict=True):
        body = np.frombuffer(decompress(data), np.uint8)[(each.block.samples + 7) // 8 :]
        out.append(np.ascontiguousarray(body.reshape(4, -1).T).view(np.float32).reshape(each.block.rows, -1))
    return out


def fsd(blocks: Sequence[Sent]) -> list[bytes]:
    encoders: dict[int, Encoder] = {}
    return [encoders.setdefault(each.source, Encoder()).encode(each.target, pack(each.block)) for each in blocks]


def from_fsd(payloads: Sequence[bytes], blocks: Sequence[Sent]) -> list[NDArray[np.float32]]:
    decoders: dict[int, Decoder] = {}
    return [
        decoders.setdefault(each.target, Decoder()).decode(each.source, data, each.block.rows, each.block.samples).values
        for data, each in zip(payloads, blocks, strict=True)
    ]


Encode = Callable[[Sequence[Sent]], list[bytes]]
Decode = Callable[[Sequence[bytes], Sequence[Sent]], list[NDArray[np.float32]]]
CODECS: dict[str, tuple[Encode, Decode]] = {"triples": (triples, from_triples), "planes": (planes, from_planes), "fsd": (fsd, from_fsd)}


def measure(name: str, blocks: Sequence[Sent], rounds: int) -> None:
    size = sum(each.block.values.nbytes for each in blocks)
    print(f"{name}: {len(blocks)} payloads, {size / 1e6:.1f} MB of activations of live samples; ratio of bytes to those of fsd")
    print(f"{'codec':8} {'bytes':>12} {'ratio':>6} {'encode GB/s':>12} {'decode GB/s':>12}")
    seconds: dict[str, list[tuple[float, float]]] = {codec: [] for codec in CODECS}
    sizes = dict.fromkeys(CODECS, 0)
    for _ in range(rounds):
        for codec, (encode, decode) in CODECS.items():
            start = time.process_time()
            payloads = encode(blocks)
            encoded = time.process_time()
            decoded = decode(payloads, blocks)
            seconds[codec].append((encoded - start, time.process_time() - encoded))
            sizes[codec] = sum(map(len, payloads))
            assert all(np.array_equal(made, each.block.values) for made, each in zip(decoded, blocks, strict=True))
    for codec, times in seconds.items():
        encode_s, decode_s = np.median(times, axis=0)
        rates = f"{size / encode_s / 1e9:12.3f} {size / decode_s / 1e9:12.3f}"
        print(f"{codec:8} {sizes[codec]:12} {sizes[codec] / sizes['fsd']:6.2f} {rates}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the files of the Graph Challenge")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--layers", type=int, default=120)
    parser.add_argument("--signed-layers", type=int, default=6, help="layers of the network with signed-normal weights")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.data is not None:
        challenge = load(options.data)
        model, images = challenge.model, challenge.images
    else:
        model = radixnet(1024, options.layers)
        images = open_inputs("digits", 1024)
    measure(model.name, sent(model, images, options.workers, options.layers), options.rounds)
    signed = radixnet(1024, options.signed_layers, weights="normal")
    measure(f"{signed.name}, signed-normal weights", sent(signed, images[:1000], options.workers, options.signed_layers), options.rounds)


if __name__ == "__main__":
    main()
