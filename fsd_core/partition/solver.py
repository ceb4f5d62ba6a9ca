"""Sends requests to the child process `fsd_core.partition._mtkahypar`, each with a time limit."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

import attrs
import numpy as np
from numpy.typing import NDArray

from fsd_core.common import interrupt
from fsd_core.partition import _mtkahypar

__all__ = ["Hypergraph", "Solver", "Stopped"]


class Stopped(Exception):
    """The solver gave no usable answer. The message is the reason."""


@attrs.frozen(eq=False)
class Hypergraph:
    """A hypergraph of weighted vertices and nets. All arrays are int64. Pin ``vertices + r`` is the terminal that is fixed in block r."""

    weights: NDArray[np.int64]  # (vertices,)
    starts: NDArray[np.int64]  # (nets + 1,): net i has pins[starts[i]:starts[i + 1]]
    pins: NDArray[np.int64]  # (pins,)
    net_weights: NDArray[np.int64]  # (nets,)


class Solver:
    """One child process that answers any number of requests. The first request starts the process; the end of ``with`` kills it.

    The end of ``with`` may come while another thread waits in `blocks`, which then raises `Stopped`.
    """

    def __init__(self, command: Sequence[str], time_limit: float | None = None) -> None:
        self._command = command
        self._time_limit = time_limit  # seconds for one request; None: 30 s plus 1 s for each 1000 pins
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # for the start and the end of the process, which may be in two threads
        self._over = False

    def __enter__(self) -> Solver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._over = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):  # unsent bytes of a request that was interrupted
                    if pipe is not None:
                        pipe.close()

    def blocks(self, graph: Hypergraph, workers: int, epsilon: float, seed: int) -> NDArray[np.int32]:
        """Assign each vertex to a block: int32 (vertices,), from 0 to ``workers`` - 1.

        The weight of a block is at most (1 + ``epsilon``) x the mean weight of all blocks. Raises `Stopped` if the child process dies or
        fails, exceeds its time limit, or gives a malformed answer.
        """
        seconds = self._time_limit or 30 + len(graph.pins) / 1000
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        try:
            with self._lock, interrupt.whole():
                if self._over:
                    raise Stopped("the solver has ended")
                process = self._process = self._process or subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in a terminal reaches the caller alone, which ends the child
                )
            assert process.stdin is not None
            assert process.stdout is not None
            timer = threading.Timer(seconds, give_up)
            timer.daemon = True
            timer.start()
            try:
                _mtkahypar.write(process.stdin, workers=workers, epsilon=epsilon, seed=seed, **attrs.asdict(graph, recurse=False))
                answer = _mtkahypar.read(process.stdout)
            finally:
                timer.cancel()
            if answer is None:
                raise OSError("the solver ended without an answer")
        except (OSError, ValueError) as error:
            raise Stopped(f"the solver took over {seconds:.0f} s for a layer" if late.is_set() else str(error)) from error
        if "error" in answer:
            raise Stopped(str(answer["error"]).partition("\n")[0])
        blocks = answer["blocks"]
        if blocks.shape != graph.weights.shape or not 0 <= blocks.min() <= blocks.max() < workers:
            raise Stopped("the solver's answer lacks the block of a vertex")
        return blocks
