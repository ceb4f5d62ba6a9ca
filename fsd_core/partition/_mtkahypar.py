"""The child process that runs Mt-KaHyPar, so that the caller survives if the library hangs or crashes.

This module imports no other module of this project. Standard input and output carry messages: 8 bytes of length (little-endian), then an
``.npz``. A request has the numbers ``workers``, ``epsilon`` and ``seed``, and the int64 arrays ``weights`` (vertices,), ``starts``
(nets + 1,), ``pins`` and ``net_weights`` (nets,). Pin ``vertices + r`` is a terminal: an extra vertex that is fixed in block r. The answer
has ``blocks`` (vertices,) int32, or ``error``, a text.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import itertools
import os
import signal
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def read(stream: IO[bytes]) -> dict[str, NDArray[Any]] | None:
    """Read the arrays of the next message. Returns `None` if the stream ends early. Raises `ValueError` if the bytes are not a message."""
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    if size >= 1 << 36:
        raise ValueError(f"a message begins with {head!r}: expected its length in 8 bytes, below 2^36")
    body = stream.read(size) if len(head) == 8 else b""
    if not body or len(body) < size:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return dict(arrays)


def write(stream: IO[bytes], **arrays: Any) -> None:
    """Write one message of ``arrays``."""
    body = io.BytesIO()
    np.savez(body, **arrays)
    stream.write(body.tell().to_bytes(8, "little") + body.getvalue())
    stream.flush()


def _end_with_caller() -> None:
    """Request that Linux kills this process when its caller dies: while the library computes, no Python thread can run to check this."""
    with contextlib.suppress(AttributeError):  # on other systems this process ends after the current request
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _context(library: Any) -> Any:
    """The settings of ``solver.ini``; those of the preset for a version of the library that has other settings."""
    import mtkahypar

    try:
        return library.context_from_file(str(Path(__file__).with_name("solver.ini")))
    except mtkahypar.InvalidParameterError:
        return library.context_from_preset(mtkahypar.PresetType.DEFAULT)


def main() -> None:
    """Answer requests until standard input ends."""
    _end_with_caller()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the library prints to standard output, where the answers go
    import mtkahypar

    library = mtkahypar.initialize(1)  # one thread: the same seed gives the same blocks
    while (request := read(sys.stdin.buffer)) is not None:
        try:
            workers, vertices = int(request["workers"]), len(request["weights"])
            mtkahypar.set_seed(int(request["seed"]))
            context = _context(library)
            context.set_partitioning_parameters(workers, float(request["epsilon"]), mtkahypar.Objective.KM1)
            context.logging = False
            pins, starts = request["pins"].tolist(), request["starts"].tolist()
            nets = [pins[a:b] for a, b in itertools.pairwise(starts)]
            weights = request["weights"].tolist() + [1] * workers  # with terminals of weight 0 the library hangs on some small inputs
            graph = library.create_hypergraph(context, len(weights), len(nets), nets, weights, request["net_weights"].tolist())
            graph.add_fixed_vertices([-1] * vertices + list(range(workers)), workers)
            write(answers, blocks=np.array(graph.partition(context).get_partition()[:vertices], np.int32))
        except Exception as error:  # the library raises errors of any class, and the caller reports all of them
            write(answers, error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
