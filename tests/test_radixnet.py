"""The generator of RadiX-Nets compared with its closed form, and with the published benchmark if its files are on this machine.

The tests look for the published files in the folder `$FSD_DATA` or data/graphchallenge of the project: neuron1024/ (or neuron1024.tar.xz),
sparse-images-1024*.tsv* and neuron1024-l120-categories*.tsv.
"""

import os
import tarfile
from pathlib import Path

import attrs
import numpy as np
import pytest

from fsd_core.errors import InputError
from fsd_core.model import open_model, radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial


def closed_form(neurons, level):
    """The weights (outputs, inputs) of a layer of the first copy, in units of 1/16."""
    nodes = neurons // 16
    base = np.eye(nodes, dtype=int)
    base[(np.arange(nodes) - 2**level) % nodes, np.arange(nodes)] += 1  # input class j to output class j - 2^level
    return np.kron(np.ones((16, 16), int), base)


def rows_of(layers):
    """One line for each input neuron: its outputs in each of the layers."""
    return np.concatenate([layer.weights.scipy().toarray().T for layer in layers], axis=1)


def permuted(rows, base):
    """Whether ``rows`` are those of ``base`` in another order."""
    return sorted(map(bytes, rows)) == sorted(map(bytes, base)) and not np.array_equal(rows, base)


def test_the_first_copy_is_the_closed_form():
    model = radixnet(1024, 6)
    for level, layer in enumerate(model.layers):
        np.testing.assert_array_equal(layer.weights.scipy().toarray() * 16, closed_form(1024, level))
        assert (layer.activation, layer.clip, layer.challenge, set(layer.bias)) == ("relu", 32.0, True, {np.float32(-0.3)})


def test_each_further_copy_has_its_input_rows_permuted_by_one_permutation():
    layers = radixnet(1024, 20, seed=3).layers
    base = rows_of(layers[:6])
    assert permuted(rows_of(layers[6:12]), base)
    assert permuted(rows_of(layers[12:18]), base)
    assert not np.array_equal(rows_of(layers[6:12]), rows_of(layers[12:18]))
    assert permuted(rows_of(layers[18:]), rows_of(layers[:2]))


@pytest.mark.parametrize(("neurons", "depth", "bias"), [(1024, 6, -0.3), (4096, 8, -0.35), (16384, 10, -0.4), (65536, 12, -0.45)])
def test_every_size_has_32_nonzeros_in_each_row_and_column(neurons, depth, bias):
    model = radixnet(neurons, depth + 1 if neurons < 16384 else 2)
    for layer in model.layers:
        assert set(np.diff(layer.weights.indptr)) == {32}
        assert set(np.bincount(layer.weights.indices, minlength=neurons)) == {32}
        assert set(layer.weights.values) == {1 / 16}
        assert set(layer.bias) == {np.float32(bias)}
    if neurons < 16384:
        assert not np.array_equal(model.layers[0].weights.indices, model.layers[depth].weights.indices)
        assert np.array_equal(model.layers[0].weights.indices[:32] % (neurons // 16), [0, 1] * 16)


def test_seeds_change_the_later_copies_only():
    first, same, other = radixnet(1024, 7, 1), radixnet(1024, 7, 1), radixnet(1024, 7, 2)
    assert first.layers[0].checksum.startswith("bd1b2c313368d358")  # so that plans kept under a recipe are those of this content
    assert first.digest == same.digest != other.digest
    assert [a.checksum == b.checksum for a, b in zip(first.layers, other.layers, strict=True)] == [True] * 6 + [False]


def test_arguments_that_make_other_weights_make_another_recipe():
    made = [radixnet(1024, 2), radixnet(1024, 3), radixnet(4096, 2), radixnet(1024, 2, 1), radixnet(1024, 2, weights="normal")]
    assert len({model.recipe for model in made}) == 5
    assert made[0].recipe == radixnet(1024, 2).recipe
    assert attrs.evolve(made[1], layers=made[0].layers).recipe == ""


def test_normal_weights_keep_the_structure_and_the_scale():
    official, normal = radixnet(1024, 7, 1), radixnet(1024, 7, 1, weights="normal")
    values = np.concatenate([layer.weights.values for layer in normal.layers])
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 0.25) < 0.01
    assert np.array_equal(official.layers[0].weights.indices, normal.layers[0].weights.indices)
    assert len({layer.checksum for layer in normal.layers}) == 7
    assert {(layer.activation, layer.clip, layer.challenge) for layer in normal.layers} == {("relu", None, False)}
    alive = serial(radixnet(1024, 60, weights="normal"), open_inputs("random:4", 1024))
    assert 0.01 < np.abs(alive.data).mean() < 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1000, 1), "1000 neurons: .* 1024, 4096, 16384, 65536"),
        ((1024, 0), "layers 0: expected a whole number of at least 1"),
        ((1024, 1, -1), "seed -1"),
        ((1024, 1, 0, "ones"), "weights 'ones': expected one of official, normal"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=message):
        radixnet(*arguments)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder of the published files, and the network in it."""
    for folder in (os.environ.get("FSD_DATA"), Path(__file__).parents[1] / "data" / "graphchallenge"):
        if folder and (Path(folder) / "neuron1024").is_dir():
            return Path(folder), open_model(str(Path(folder) / "neuron1024"))
        if folder and (archive := Path(folder) / "neuron1024.tar.xz").is_file():
            target = tmp_path_factory.mktemp("published")
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")
            return Path(folder), open_model(str(target / "neuron1024"))
    pytest.skip("the published network is not here: FSD_DATA names no folder with neuron1024/ or neuron1024.tar.xz")


def test_the_published_network_has_the_structure_that_is_generated(published):
    layers = published[1].layers
    assert len(layers) == 120
    ours = radixnet(1024, 6).layers
    assert [layer.checksum for layer in layers[:6]] == [layer.checksum for layer in ours]
    base = rows_of(ours)
    copies = [rows_of(layers[k : k + 6]) for k in range(6, 120, 6)]
    assert all(permuted(copy, base) for copy in copies)
    assert len({copy.tobytes() for copy in copies}) == 19


def test_the_published_network_gives_the_published_categories(published):
    folder, model = published
    images, truth = next(folder.glob("sparse-images-1024*.tsv*"), None), next(folder.glob("neuron1024-l120-categories*.tsv"), None)
    if images is None or truth is None:
        pytest.skip("the published images or categories are not with the network")
    output = serial(model, open_inputs(str(images), 1024))
    np.testing.assert_array_equal(np.flatnonzero(output.getnnz(axis=1)) + 1, np.loadtxt(truth, dtype=int))
