"""The child process that holds Mt-KaHyPar: it may hang or die without taking the caller along. Run as a script, it imports nothing of ours.

Standard input and output carry messages: 8 bytes of length (little-endian), then an ``.npz``. A request has ``workers``, ``epsilon``,
``seed``, ``weights`` (vertices,), ``starts`` (nets + 1,), ``pins``, ``net_weights`` (nets,); pin ``vertices + r`` is a terminal fixed in
block r. The answer has ``blocks`` (vertices,) int32, or ``error``, a text.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import itertools
import os
import signal
import sys
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def read(stream: IO[bytes]) -> dict[str, NDArray[Any]] | None:
    """One message; `None` where the stream has ended, in its middle too. Raises `ValueError` for what is none."""
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    if size >= 1 << 36:
        raise ValueError(f"{head!r} is no message's head")
    body = stream.read(size) if len(head) == 8 else b""
    if not body or len(body) < size:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return dict(arrays)


def write(stream: IO[bytes], **arrays: Any) -> None:
    """One message."""
    body = io.BytesIO()
    np.savez(body, **arrays)
    stream.write(body.tell().to_bytes(8, "little") + body.getvalue())
    stream.flush()


def _end_with_caller() -> None:
    """A caller that was killed cannot end this process, and the library lets no thread of ours look meanwhile: Linux does it."""
    with contextlib.suppress(AttributeError):  # elsewhere it ends after the question at hand
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    """Answer requests until the input ends."""
    _end_with_caller()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints must not get between the answers
    import mtkahypar

    library = mtkahypar.initialize(1)  # one thread: the same seed gives the same blocks
    while (ask := read(sys.stdin.buffer)) is not None:
        try:
            workers, vertices = int(ask["workers"]), len(ask["weights"])
            mtkahypar.set_seed(int(ask["seed"]))
            context = library.context_from_preset(mtkahypar.PresetType.DEFAULT)
            context.set_partitioning_parameters(workers, float(ask["epsilon"]), mtkahypar.Objective.KM1)
            context.logging = False
            pins, starts = ask["pins"].tolist(), ask["starts"].tolist()
            nets = [pins[a:b] for a, b in itertools.pairwise(starts)]
            weights = ask["weights"].tolist() + [1] * workers  # terminals of weight 0 make the library hang on some small inputs
            graph = library.create_hypergraph(context, len(weights), len(nets), nets, weights, ask["net_weights"].tolist())
            graph.add_fixed_vertices([-1] * vertices + list(range(workers)), workers)
            write(answers, blocks=np.array(graph.partition(context).get_partition()[:vertices], np.int32))
        except Exception as error:  # whatever the library raises is the caller's to report
            write(answers, error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
