"""Opens the samples that the command's argument INPUT names: a file, the digits of scikit-learn, or random numbers."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fsd_core.common import arguments
from fsd_core.common.home import expanded
from fsd_core.errors import InputError
from fsd_core.model.layer import Csr, Model
from fsd_core.model.npz import from_dense, read_matrix
from fsd_core.model.tsv import read_table

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["open_inputs", "open_samples"]

_MAX_SAMPLES = 10**8  # a larger number is a mistake, and would fill gigabytes before anything fails
_DIGITS = 8  # side of scikit-learn's digits, whose pixels go from 0 to 16
_GLYPH = 20 / 28  # side of the digit / side of the image, as in MNIST
_INK = 10.0  # pixels above this value become 1: a ninth of an image, as in the images of the challenge


def open_inputs(spec: str | os.PathLike[str], width: int) -> csr_matrix:
    """The samples that ``spec`` names: a ``scipy.sparse.csr_matrix`` (samples, width) float32, sorted, finite, without stored zeros.

    - ``FILE.npz``: a CSR matrix that ``scipy.sparse.save_npz`` wrote, or a dense array, which has the name ``x`` if it is not the only one.
      ``FILE.npy``: a dense array. A dense array may have more axes than two if a sample has ``width`` values in all.
    - ``FILE.tsv``, ``.tsv.xz``, ``.tsv.gz``: lines of ``sample neuron value``, 1-based; the largest sample number is the number of samples.
    - ``digits``: the 1,797 handwritten digits of scikit-learn. For width 64 they are 8 x 8 pixels from 0 to 1. For a larger square they are
      scaled bilinearly to 20/28 of the side of the image, centred, and thresholded to 0 and 1.
    - ``random:SAMPLES[:DENSITY[:SEED]]``: each entry is nonzero with probability DENSITY (0.5). Its value is uniform over (0, 2], so
      its mean is 1, the value of a pixel in the images of the challenge. With the same seed, the first samples do not depend on SAMPLES.

    A text can be any of these. A `Path` is always a file, even if its name is digits. Raises InputError for a missing or malformed file, a
    wrong text, or samples that do not have ``width`` values.
    """
    width = arguments.whole("width", width, 1)
    spec = arguments.folder_or_name("inputs", spec, "the path of an .npz, .npy or .tsv file, digits, or random:SAMPLES[:DENSITY[:SEED]]")
    if spec == "digits":
        made = from_dense(_digits(width))
    elif isinstance(spec, str) and spec.startswith("random:"):
        made = _random(spec, width)
    else:
        made = _from_file(expanded(spec), width)
    if made.shape[1] != width:
        raise InputError(f"{spec}: samples of width {made.shape[1]}: expected width {width}, the number of inputs of the model")
    if made.shape[0] == 0:
        raise InputError(f"{spec}: no samples: expected at least one")
    return made.scipy().copy()  # a copy that the caller may write to


def open_samples(inputs: Any, model: Model) -> csr_matrix:
    """The inputs of `run` as scipy CSR float32 (samples, inputs of the model): checked, and a copy if the caller gave a matrix."""
    if isinstance(inputs, str | os.PathLike):
        return open_inputs(inputs, model.inputs)
    matrix = arguments.matrix("inputs", inputs, model.inputs)
    if matrix.shape[0] == 0:
        raise InputError("inputs have no samples: expected at least one")
    return matrix


def _from_file(path: Path, width: int) -> Csr:
    if not os.path.isfile(path):
        state = "is a folder" if os.path.isdir(path) else "no such file"
        raise InputError(f"{path}: {state}: expected an .npz, .npy or .tsv file, digits, or random:SAMPLES[:DENSITY[:SEED]]")
    if path.suffix in (".npz", ".npy"):
        return read_matrix(path, width)
    if not path.name.endswith((".tsv", ".tsv.gz", ".tsv.xz")):
        raise InputError(f"{path}: unknown file type: expected a name that ends in .npz, .npy, .tsv, .tsv.gz or .tsv.xz")
    table = read_table(path, _MAX_SAMPLES, width)
    return Csr.build(table.rows, table.columns, table.values, (int(table.rows.max()) + 1, width))


def _digits(width: int) -> NDArray[np.float32]:
    """The images, float32 (1797, width)."""
    side = math.isqrt(width)
    if side * side != width or side < _DIGITS:
        raise InputError(f"digits: expected a model of width {_DIGITS**2} or of a larger square image, but this model takes width {width}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError("digits: scikit-learn is not installed: expected the extra demo; install fsd-inference[demo]") from error
    images: NDArray[np.float64] = load_digits().images
    if side == _DIGITS:
        return (images / 16).reshape(-1, width).astype(np.float32)
    glyph = max(_DIGITS, round(side * _GLYPH))
    centre = (np.arange(glyph) + 0.5) * _DIGITS / glyph - 0.5  # centre of each new pixel, in units of old pixels
    reach = np.clip(centre, 0, _DIGITS - 1)[:, None] - np.arange(_DIGITS)
    weights = np.maximum(0, 1 - np.abs(reach))  # linear interpolation along one axis; along both axes it is bilinear
    scaled = weights @ images @ weights.T
    canvas = np.zeros((len(images), side, side), np.float32)
    edge = (side - glyph) // 2
    canvas[:, edge : edge + glyph, edge : edge + glyph] = scaled > _INK
    return canvas.reshape(-1, width)


def _random(spec: str, width: int) -> Csr:
    fields = spec.split(":")[1:]
    bounds = f"SAMPLES from 1 to {_MAX_SAMPLES}, DENSITY above 0 and at most 1, SEED from 0"
    wrong = f"{spec!r}: expected random:SAMPLES[:DENSITY[:SEED]] with {bounds}"
    try:
        first, second, third = [*fields, *("0.5", "0")[len(fields) - 1 :]]
        samples, density, seed = int(first), float(second), int(third)
    except ValueError as error:
        raise InputError(wrong) from error
    if not (1 <= samples <= _MAX_SAMPLES and 0 < density <= 1 and seed >= 0):
        raise InputError(wrong)
    random = np.random.default_rng(seed)
    columns, values = [], []
    for _ in range(samples):
        draw = random.random(width)
        columns.append(np.flatnonzero(draw < density).astype(np.int32))
        values.append((2 * (1 - draw[columns[-1]] / density)).astype(np.float32))
    indptr = np.zeros(samples + 1, np.int64)
    np.cumsum([len(found) for found in columns], out=indptr[1:])
    return Csr(indptr, np.concatenate(columns), np.concatenate(values), (samples, width))
