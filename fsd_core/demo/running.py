"""Runs the example: distributed on this machine, and in a single process to compare."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from fsd_core.client.inference import check_options, run
from fsd_core.client.job import Progress
from fsd_core.client.result import Result
from fsd_core.common import arguments, interrupt
from fsd_core.demo.training import accuracy, digits, network
from fsd_core.errors import CheckFailed
from fsd_core.model import Model
from fsd_core.partition import AUTO

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Demo", "run_demo"]

WORKERS = 8
MIN_ACCURACY = 0.94
TOLERANCE = 1e-4  # of the largest activation: sums of float32 in another order differ a little


@attrs.frozen(eq=False)
class Demo:
    """What the demo ran, and how its output differs from that of a single process.

    - ``result``, ``model``: of the run. ``inputs``: scipy CSR float32 (samples, inputs of the model).
    - ``max_difference``: the largest absolute difference of an activation. ``tolerance``: the largest one that `check` accepts.
    - ``same``: whether the difference is within the tolerance and the same samples end nonzero.
    - ``accuracy``: the share of digits, from 0 to 1, that the network recognises; training used other digits. `None` with a RadiX-Net.
    - ``folder``: the folder of the trained model. `None` with a RadiX-Net.
    """

    result: Result
    model: Model
    inputs: csr_matrix
    max_difference: float
    tolerance: float
    same: bool
    accuracy: float | None
    folder: Path | None

    def check(self) -> None:
        """Raise `CheckFailed` if the output is not that of a single process, or the accuracy is below 94 %."""
        if not self.same:
            raise CheckFailed(
                f"the distributed output differs from the serial output by {self.max_difference:.3g}: expected at most "
                f"{self.tolerance:.3g}, and the same nonzero samples"
            )
        if self.accuracy is not None and self.accuracy < MIN_ACCURACY:
            raise CheckFailed(f"the accuracy is {self.accuracy:.2%}, expected at least {MIN_ACCURACY:.0%}")


def _eight(options: dict[str, Any]) -> dict[str, Any]:
    """The options. Where the caller gives no others: eight workers that share layers over the hybrid channel, which shows more of fsd."""
    found, workers = dict(options), options.get("workers", AUTO)
    if all(found.get(f"{size}_parallel") is None for size in ("data", "pipeline", "tensor")):
        found["tensor_parallel"] = WORKERS if workers == AUTO else workers
    if found.get("channel", AUTO) == AUTO:
        found["channel"] = "hybrid"
    return found


@interrupt.heard()
def run_demo(
    *,
    radixnet: bool = False,
    seed: int = 0,
    home: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Demo:
    """Train a small sparse network on handwritten digits, run it on this machine, and compare the result with that of a single process.

    - ``radixnet``: instead of the trained network, run a RadiX-Net of 120 layers with 1024 neurons, on the digits at 32 x 32 pixels.
    - ``seed``, ``home``, ``progress``: those of `run`. The trained network is kept below ``home``. While it is trained, ``progress`` is
      called with a `Progress` of phase train.
    - ``options``: other arguments of `run`, for instance ``workers`` or ``channel``. Without them, eight workers share the layers over the
      hybrid channel.

    Returns a `Demo`; its ``check`` raises `CheckFailed` if the comparison failed. Raises `InputError` if an argument is wrong or
    scikit-learn is not installed, and `RunFailed` if the run fails.
    """
    from scipy.sparse import csr_matrix

    from fsd_core.model import radixnet as make_radixnet
    from fsd_core.model.inputs import open_inputs
    from fsd_core.model.serial import serial

    check_options(options, ("model", "inputs", "seed", "home", "progress"))
    seed = arguments.whole("seed", seed)
    kept, tell = arguments.home(home), arguments.callback("progress", progress)
    data, folder = None, None
    if arguments.yes_or_no("radixnet", radixnet):
        model = make_radixnet(1024, 120, seed)
        inputs = open_inputs("digits", model.inputs)
    else:
        data = digits()
        model, folder = network(kept, lambda done, total: tell(Progress("train", done, total, "epochs")) if tell else None)
        inputs = csr_matrix(data.held)
    result = run(model, inputs, seed=seed, home=kept, progress=progress, **_eight(options))
    expected, got = serial(model, inputs).toarray(), result.output.toarray()
    difference = float(np.abs(got - expected).max())
    tolerance = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    same = difference <= tolerance and bool(((got != 0).any(axis=1) == (expected != 0).any(axis=1)).all())
    share = None if data is None else accuracy(result.output, data.held_labels)
    return Demo(result, model, inputs, difference, tolerance, same, share, folder)
