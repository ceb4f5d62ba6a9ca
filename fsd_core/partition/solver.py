"""The caller's side of `fsd_core.partition._mtkahypar`: questions to the child process, each with a time limit."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from fsd_core.common import interrupt
from fsd_core.partition import _mtkahypar

__all__ = ["Hypergraph", "Solver", "Stopped"]


class Stopped(Exception):
    """The solver gave no answer; the text says why."""


@dataclass(frozen=True, eq=False)
class Hypergraph:
    """All int64. Pin ``vertices + r`` is the terminal that is fixed in block r."""

    weights: NDArray[np.int64]  # (vertices,)
    starts: NDArray[np.int64]  # (nets + 1,) into pins
    pins: NDArray[np.int64]
    net_weights: NDArray[np.int64]  # (nets,)


class Solver:
    """One child process for any number of questions; it starts at the first, and ends with the ``with`` block."""

    def __init__(self, command: Sequence[str], time_limit: float | None = None) -> None:
        self._command = command
        self._time_limit = time_limit  # seconds for one question; None: 30, and one for each 1000 pins
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Solver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def blocks(self, graph: Hypergraph, workers: int, epsilon: float, seed: int) -> NDArray[np.int32]:
        """The block of each vertex, int32 (vertices,). Raises `Stopped` where the child died, failed or took too long."""
        seconds = self._time_limit or 30 + len(graph.pins) / 1000
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        try:
            with interrupt.whole():
                process = self._process = self._process or subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in a terminal is for the caller, who ends it
                )
            assert process.stdin is not None
            assert process.stdout is not None
            timer = threading.Timer(seconds, give_up)
            timer.daemon = True
            timer.start()
            try:
                _mtkahypar.write(process.stdin, workers=workers, epsilon=epsilon, seed=seed, **vars(graph))
                answer = _mtkahypar.read(process.stdout)
            finally:
                timer.cancel()
            if answer is None:
                raise OSError("ended without an answer")
        except (OSError, ValueError) as error:
            raise Stopped(f"took over {seconds:.0f} s for a layer" if late.is_set() else str(error)) from error
        if "error" in answer:
            raise Stopped(str(answer["error"]).partition("\n")[0])
        blocks = answer["blocks"]
        if blocks.shape != graph.weights.shape or not 0 <= blocks.min() <= blocks.max() < workers:
            raise Stopped("gave no block for some vertex")
        return blocks
