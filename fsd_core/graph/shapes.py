"""The shapes of a model's inputs: given by the user or found in the file. The batch axis stays free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from fsd_core.common import arguments
from fsd_core.errors import InputError
from fsd_core.graph.library import NATIVE

__all__ = ["BATCH", "Input", "check_shapes", "input_shapes", "with_shapes"]

BATCH = "batch"  # the name of the free axis of each input
_MOST = 2**31 - 1

Dim = int | str  # a size, or the name of a free axis


@attrs.frozen
class Input:
    """One input of a model, or one output."""

    name: str
    dtype: str  # of numpy
    shape: tuple[int | None, ...] | None  # `None`: free, or not known

    def to_json(self) -> dict[str, Any]:
        """The fields as values that JSON can hold."""
        return {"name": self.name, "dtype": self.dtype, "shape": None if self.shape is None else list(self.shape)}


def check_shapes(value: Any) -> dict[str, tuple[int, ...]]:
    """Check shapes by the name of an input, as `open_graph` takes them."""
    found = {}
    for name, shape in arguments.table("shapes", {} if value is None else value).items():
        if not isinstance(shape, Sequence) or isinstance(shape, str):
            raise arguments.wrong(f"shapes: {name}", shape, "a sequence of whole numbers")
        found[name] = tuple(arguments.whole(f"shapes: {name}", size, 1, _MOST) for size in shape)
    return found


def input_shapes(model: Any, shapes: Mapping[str, Sequence[int]], batch_axis: str, where: str) -> tuple[list[Input], str | None]:
    """The shape of each input. Each axis has a size, except the first one if it is free in all inputs: this is the batch axis.

    ``batch_axis``: as in `open_graph`; with "none", the first axis gets a size too. Returns the inputs, and why the model has no batch
    axis; `None` if it has one. Raises `InputError` if an input is no tensor of numbers, if ``shapes`` do not fit the axes in the file, or
    if the size of another axis is not known.
    """
    inputs = list(model.graph.input)
    for name in shapes:
        if name not in {each.name for each in inputs}:
            raise InputError(f"{where}: has no input {name!r}: expected a shape of {', '.join(each.name for each in inputs) or 'none'}")
    dims = {each.name: _dims(each, shapes.get(each.name), where) for each in inputs}
    sizes = _bound(dims, shapes, where)
    without = "--batch-axis none was given" if batch_axis == "none" else _why_no_batch(dims)
    if without is not None and batch_axis == "0":
        raise InputError(f"{where}: {without}: expected --batch-axis none")
    found = []
    for value in inputs:
        each = [1, *dims[value.name][1:]] if without is None else dims[value.name]
        shape: list[int | None] = [_size(value.name, axis, each, sizes, where) for axis in range(len(each))]
        if without is None:
            shape[0] = None
        found.append(Input(value.name, NATIVE[value.type.tensor_type.elem_type], tuple(shape)))
    return found, without


def with_shapes(model: Any, inputs: Sequence[Input]) -> Any:
    """A copy of ``model`` whose inputs have these shapes. Its outputs have only the sizes that do not depend on them.

    The model itself keeps the free axes of the file: ONNX Runtime refuses some models that branch on a shape if the shape is fixed.
    """
    made = type(model)()
    made.CopyFrom(model)
    for value, each in zip(made.graph.input, inputs, strict=True):
        tensor = value.type.tensor_type
        tensor.ClearField("shape")
        tensor.shape.SetInParent()
        for size in each.shape or ():
            dim = tensor.shape.dim.add()
            if size is None:
                dim.dim_param = BATCH
            else:
                dim.dim_value = size
    for output in made.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if dim.HasField("dim_param") or dim.dim_value < 1:
                dim.Clear()
    return made


def _dims(value: Any, given: Sequence[int] | None, where: str) -> list[Dim]:
    """The sizes of an input's axes. A free axis has its name in the file, or a new name."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type" or value.type.tensor_type.elem_type not in NATIVE:
        what = "a tensor of texts or of a dtype that numpy does not have" if kind == "tensor_type" else str(kind or "without a type")
        raise InputError(f"{where}: input {value.name!r} is {what.replace('_type', '')}: expected a tensor of numbers")
    tensor = value.type.tensor_type
    dims: list[Dim] = []
    for axis, dim in enumerate(tensor.shape.dim):
        dims.append(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else _named(dim.dim_param) or f"{value.name}.{axis}")
    if given is not None and len(given) != len(dims):
        raise InputError(f"{where}: --shape {value.name}={_text(given)} has {len(given)} axes: expected {len(dims)}, as {_text(dims)}")
    return dims


def _bound(dims: Mapping[str, list[Dim]], shapes: Mapping[str, Sequence[int]], where: str) -> dict[str, int]:
    """The size of each free axis that ``shapes`` give, by the name of the axis."""
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        for axis, (dim, size) in enumerate(zip(dims[name], shape, strict=True)):
            fixed = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
            if fixed != size:
                raise InputError(f"{where}: --shape {name}={_text(shape)}: axis {axis} is {size}: expected {fixed}, as {_text(dims[name])}")
    return sizes


def _why_no_batch(dims: Mapping[str, list[Dim]]) -> str | None:
    """Why the first axis of the inputs is not free for samples, or `None`."""
    if not dims:
        return "the model has no input"
    for name, each in dims.items():
        if not each or not isinstance(each[0], str):
            return f"input {name!r} has " + (f"the fixed size {each[0]} at axis 0" if each else "no axis")
    first = {each[0] for each in dims.values()}
    for name, each in dims.items():
        for axis, dim in enumerate(each[1:], 1):
            if dim in first:
                return f"input {name!r} has the free size {dim!r} of the first axes also at axis {axis}"
    return None


def _size(name: str, axis: int, dims: Sequence[Dim], sizes: Mapping[str, int], where: str) -> int:
    dim = dims[axis]
    if isinstance(dim, int):
        return dim
    if dim not in sizes:
        known = "x".join(str(sizes.get(each, f"SIZE{k}") if isinstance(each, str) else each) for k, each in enumerate(dims))
        named = "" if dim == f"{name}.{axis}" else f" ({dim!r})"
        wanted = f"expected it with --shape {name}={known} of fsd model import"
        raise InputError(f"{where}: input {name!r}: the size of axis {axis}{named} is free: {wanted}")
    return sizes[dim]


def _named(name: str) -> str:
    """The name of a free axis in the file. Some exporters write ? for an axis without a name."""
    return "" if name == "?" else name


def _text(shape: Sequence[Dim]) -> str:
    return "x".join(map(str, shape))
