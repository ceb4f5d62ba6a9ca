"""A session of ONNX Runtime for one stage of a model. The package onnxruntime is imported when a session is made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from fsd_core.driver import Code
from fsd_core.errors import RunFailed

__all__ = ["Session", "runtime"]


def runtime() -> Any:
    """The package onnxruntime. Raises `RunFailed` (`Code.PRECONDITION`) in an app without it."""
    try:
        import onnxruntime
    except ImportError as error:
        reason = f"the function has no ONNX Runtime ({error}): expected an app that 'fsd deploy --engine onnx' made"
        raise RunFailed(Code.PRECONDITION, reason) from error
    return onnxruntime


class Session:
    """Computes a stage: ``model`` as ONNX bytes, its ``weights`` by name, and ``fed``, the weights that are inputs of the model.

    The session uses the arrays of the caller. ONNX Runtime copies ``weights`` while it makes the session, and frees the copy afterwards.
    With ``prepack``, ONNX Runtime may keep a second copy of the weights, in a form that multiplies faster.
    """

    def __init__(
        self, model: bytes, weights: Mapping[str, NDArray[Any]], fed: Mapping[str, NDArray[Any]] | None = None, *, prepack: bool
    ) -> None:
        ort = runtime()
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors are raised: no lines beside them
        options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # its blocks grow by doubling: a worker would need more memory than predicted
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # a thread that spins is billed, and disturbs its neighbours
        options.add_session_config_entry("session.disable_prepacking", "0" if prepack else "1")
        self._fed = dict(fed or {})
        self._weights = dict(weights)  # ONNX Runtime has only their addresses
        self._values = [ort.OrtValue.ortvalue_from_numpy(each) for each in self._weights.values()]
        if self._values:
            options.add_external_initializers(list(self._weights), self._values)
            for name, value in zip(self._weights, self._values, strict=True):
                options.add_initializer(name, value)  # without this call, the session keeps a copy of the external initializers
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of ONNX Runtime, of any kind
            raise _failed("does not take this stage", error) from error

    def run(self, tensors: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Compute ``outputs``, tensors by name, from ``tensors``. Raises `RunFailed` (`Code.INVALID`) if the stage cannot compute them."""
        try:
            return dict(zip(outputs, self._session.run(list(outputs), {**tensors, **self._fed}), strict=True))
        except Exception as error:  # of ONNX Runtime, of any kind
            raise _failed("cannot compute this stage", error) from error


def _failed(what: str, error: Exception) -> RunFailed:
    return RunFailed(Code.INVALID, f"ONNX Runtime {what}: {' '.join(str(error).split())}")
