"""Layers, models, activations, the serial reference, and the readers of models in files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_matrix, random_array, save_npz

from fsd_core.errors import InputError
from fsd_core.model import Csr, Layer, Model, describe, import_model, open_model, radixnet, tsv
from fsd_core.model.activation import activate, softmax
from fsd_core.model.serial import serial

ZERO = np.zeros((), np.float32)


def csr(dense):
    rows, columns = np.nonzero(dense)
    return Csr.build(rows, columns, dense[rows, columns], dense.shape)


def matrix(rows, columns, seed=0):
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, columns)) * (random.random((rows, columns)) < 0.3)).astype(np.float32)


def layer(rows, columns, activation="relu", seed=0, challenge=False, clip=None, sparse=True):
    dense = matrix(rows, columns, seed)
    bias = np.random.default_rng(seed + 1).standard_normal(rows).astype(np.float32)
    return Layer(csr(dense) if sparse else dense, bias, activation, clip, challenge)


def test_importing_what_workers_need_brings_numpy_only():
    code = (
        "import sys; from fsd_core.model import activation, inputs, serial, sources, tensors;"
        "sys.exit(sorted({'scipy', 'safetensors', 'sklearn'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.sampled_from([0.0, 1.0, -2.5])),
    st.randoms(use_true_random=False),
)
def test_build_takes_any_order_and_equals_scipy(dense, random):
    rows, columns = np.nonzero(dense)
    order = random.sample(range(rows.size), rows.size)
    built = Csr.build(rows[order], columns[order], dense[rows, columns][order], dense.shape)
    expected = csr_matrix(dense)
    assert (built.scipy() != expected).nnz == 0
    assert [built.indptr.dtype, built.indices.dtype, built.values.dtype] == [np.int64, np.int32, np.float32]
    ids = np.array([random.randrange(dense.shape[0]) for _ in range(5)])
    np.testing.assert_array_equal(built.rows(ids).scipy().toarray(), dense[ids])


def test_build_leaves_zeros_out_and_refuses_pairs_given_twice():
    made = Csr.build(np.array([0, 1, 1]), np.array([1, 0, 2]), np.array([1.0, 0.0, 2.0]), (2, 3))
    assert made.values.tolist() == [1, 2]
    with pytest.raises(InputError, match=r"row 1, column 2 .* twice"):
        Csr.build(np.array([1, 0, 1]), np.array([2, 0, 2]), np.ones(3), (2, 3))
    with pytest.raises(InputError, match="row index 2: expected a whole number from 0 to 1"):
        Csr.build(np.array([2]), np.array([0]), np.ones(1), (2, 3))
    with pytest.raises(InputError, match="column index -1: expected a whole number from 0 to 2"):
        Csr.build(np.array([0]), np.array([-1]), np.ones(1), (2, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indptr": np.array([0.0, 1.0, 2.0])}, "indptr .*dtype float64.*: expected an array of whole numbers"),
        ({"indptr": np.array([0, 1], np.int64)}, "indptr has 2 entries"),
        ({"indptr": np.array([0, 3, 2], np.int64)}, "numbers that ascend from 0 to 2"),
        ({"indptr": np.array([1, 1, 2], np.int64)}, "numbers that ascend from 0 to 2"),
        ({"indptr": np.array([0, 1, 3], np.int64)}, "numbers that ascend from 0 to 2"),
        ({"indices": np.array([0, 3], np.int32)}, "index 3: expected 0 to 2"),
        ({"indices": np.array([-1, 1], np.int32)}, "index -1: expected"),
        ({"indices": np.array([[0, 1]])}, r"column index .*shape \(1, 2\).*: expected an array of 1 dimension"),
        ({"indptr": np.array([0, 0, 2], np.int64), "indices": np.array([1, 1], np.int32)}, "row 1 .* ascend strictly"),
        ({"indptr": np.array([0, 2, 2], np.int64), "indices": np.array([2, 1], np.int32)}, "row 0 .* ascend strictly"),
        ({"values": np.array([1, np.nan], np.float32)}, "entry 1 is nan"),
        ({"values": np.array([1], np.float32)}, "values 1"),
        ({"values": [1.0, 2.0]}, "values: list"),
        ({"shape": (2, 0)}, "at least 1"),
        ({"shape": (2, 2**31)}, "columns 2147483648: expected a whole number of at most 2147483647"),
        ({"shape": 2}, "shape 2: expected two whole numbers"),
    ],
)
def test_csr_refuses_what_is_not_one(change, message):
    good = {
        "indptr": np.array([0, 1, 2], np.int64),
        "indices": np.array([1, 0], np.int32),
        "values": np.array([1, 2], np.float32),
        "shape": (2, 3),
    }
    assert Csr(**good).scipy().toarray().tolist() == [[0, 1, 0], [2, 0, 0]]
    with pytest.raises(InputError, match=message):
        Csr(**good | change)


def test_empty_rows_may_stand_anywhere():
    made = Csr(np.array([0, 0, 2, 2, 3, 3], np.int64), np.array([1, 2, 0], np.int32), np.ones(3, np.float32), (5, 3))
    assert made.rows(np.array([4, 1, 0])).scipy().toarray().tolist() == [[0, 0, 0], [0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), ZERO, "relu", None, False), "float64"),
        ((np.ones((0, 3), np.float32), ZERO, "relu", None, False), "empty"),
        ((np.full((2, 3), np.inf, np.float32), ZERO, "relu", None, False), "entry 0 is inf"),
        ((np.ones((2, 3), np.float32), np.zeros(3, np.float32), "relu", None, False), r"bias has shape \(3,\)"),
        ((np.ones((2, 3), np.float32), np.array([0, np.nan], np.float32), "relu", None, False), "bias: entry 1 is nan"),
        ((np.ones((2, 3), np.float32), np.array(1e300), "relu", None, False), "bias: entry 0 is inf"),
        ((np.ones((2, 3), np.float32), ZERO, "gelu", None, False), "activation 'gelu': expected one of identity, relu"),
        ((np.ones((2, 3), np.float32), ZERO, "tanh", 1.0, False), "clip 1.0: expected None for activation tanh"),
        ((np.ones((2, 3), np.float32), ZERO, "relu", float("nan"), False), "finite number above 0"),
        ((np.ones((2, 3), np.float32), ZERO, "relu", True, False), "clip True: expected a finite number above 0"),
        ((np.ones((2, 3), np.float32), ZERO, "relu", 10**400, False), "clip .*: expected a finite number above 0"),
        ((np.ones((2, 3), np.float32), "0", "relu", None, False), "bias '0': expected an array of real numbers"),
        ((np.ones((2, 3), np.float32), ZERO, "relu", None, "no"), "challenge 'no': expected True or False"),
        ((np.ma.ones((2, 3), np.float32), ZERO, "relu", None, False), "MaskedArray"),
        ((np.ones((2, 3), np.float32), ZERO, "relu", 0.0, False), "finite number above 0"),
    ],
)
def test_layer_refuses_what_is_not_one(arguments, message):
    with pytest.raises(InputError, match=message):
        Layer(*arguments)


def test_layer_broadcasts_a_scalar_bias_and_is_read_only():
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    made = Layer(weights, np.asarray(-0.5), "relu", 2, False)
    assert made.bias.tolist() == [-0.5, -0.5]
    assert (made.inputs, made.outputs, made.nonzeros, made.clip) == (3, 2, 6, 2.0)
    assert made.rows(np.array([1])).tolist() == [[3, 4, 5]]
    with pytest.raises(ValueError, match="read-only"):
        made.weights[0, 0] = 1
    weights[0, 0] = 1  # the caller's own array stays writable


def test_model_figures_and_refusals():
    model = Model((layer(5, 3), layer(2, 5, "softmax")), "tiny")
    assert (model.inputs, model.outputs, model.neurons) == (3, 2, 5)
    assert model.nonzeros == sum(part.nonzeros for part in model.layers)
    with pytest.raises(InputError, match="at least one layer"):
        Model(())
    with pytest.raises(InputError, match="layer 1 has 5 outputs, layer 2 takes 4"):
        Model((layer(5, 3), layer(2, 4)))
    with pytest.raises(InputError, match="layer 1 of 2 has activation softmax"):
        Model((layer(5, 3, "softmax"), layer(2, 5)))


def test_digest_is_of_the_content_and_not_of_the_name():
    def make(**change):
        settings = {"rows": 5, "columns": 3, "clip": 2.0} | change
        return Model((layer(**settings),), "name").digest

    assert make() == Model((layer(5, 3, clip=2.0),), "other").digest
    changed = [
        make(),
        make(seed=1),
        make(clip=None),
        make(challenge=True),
        make(sparse=False),
        make(columns=4),
        make(activation="tanh", clip=None),
    ]
    assert len(set(changed)) == len(changed)


def test_describe_joins_equal_layers():
    shown = describe(radixnet(1024, 3))
    assert (shown["layers"], shown["neurons"], shown["nonzeros"]) == (3, 1024, 3 * 32768)
    assert [(group["first"], group["last"], group["nonzeros"]) for group in shown["groups"]] == [(1, 3, 32768)]
    mixed = describe(Model((layer(3, 3), layer(3, 3, sparse=False), layer(3, 3, "tanh"))))
    assert [(group["first"], group["kind"], group["activation"]) for group in mixed["groups"]] == [
        (1, "csr", "relu"),
        (2, "dense", "relu"),
        (3, "csr", "tanh"),
    ]


Z = np.array([[-200, -1, 0, 1, 200], [-200, -1, 0, 1, 200]], np.float32)
BIAS = np.array([0.5, -1], np.float32)


@pytest.mark.parametrize("challenge", [False, True])
@pytest.mark.parametrize(
    ("activation", "clip", "function"),
    [
        ("identity", None, lambda z: z),
        ("softmax", None, lambda z: z),
        ("relu", None, lambda z: np.maximum(z, 0)),
        ("relu", 32.0, lambda z: np.minimum(np.maximum(z, 0), 32)),
        ("tanh", None, np.tanh),
        ("sigmoid", None, lambda z: 1 / (1 + np.exp(-z.astype(np.float64)))),
    ],
)
def test_activate_in_place_without_a_warning(activation, clip, function, challenge):
    shifted = np.where((Z == 0) & challenge, 0, Z + BIAS[:, None])
    z = Z.copy()
    with np.errstate(all="raise", under="ignore"):
        assert activate(z, BIAS, activation, clip, challenge) is z
    np.testing.assert_allclose(z, function(shifted), rtol=1e-6, atol=1e-38)


def test_sigmoid_keeps_its_precision_far_from_zero():
    z = np.array([[-80, 80]], np.float32)
    activate(z, np.zeros(1, np.float32), "sigmoid", None, False)
    np.testing.assert_allclose(z, [[1.8048514e-35, 1]], rtol=1e-5)
    with pytest.raises(InputError, match="gelu"):
        activate(z, np.zeros(1, np.float32), "gelu", None, False)


def test_softmax_of_large_values():
    with np.errstate(all="raise", under="ignore"):
        made = softmax(np.array([[1e30, 0], [1, 1], [-3e38, 3e38]], np.float32) / 2)
    np.testing.assert_allclose(made, [[1, 0], [0.5, 0.5], [0, 1]])
    assert made.dtype == np.float32


def naive(model, inputs):
    """The output in float64, computed one sample and one neuron at a time."""
    outputs = []
    for x in inputs.astype(np.float64):
        for part in model.layers:
            weights = part.weights.scipy().toarray() if isinstance(part.weights, Csr) else part.weights
            z = np.array([float(row @ x) for row in weights.astype(np.float64)])
            z = np.array([v if part.challenge and v == 0 else v + b for v, b in zip(z, part.bias, strict=True)])
            x = {
                "identity": lambda z: z,
                "relu": lambda z: np.maximum(z, 0),
                "tanh": np.tanh,
                "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
                "softmax": lambda z: np.exp(z) / np.exp(z).sum(),
            }[part.activation](z)
            x = np.minimum(x, part.clip) if part.clip else x
        outputs.append(x)
    return np.array(outputs)


@pytest.mark.parametrize("last", ["identity", "relu", "tanh", "sigmoid", "softmax"])
@pytest.mark.parametrize("challenge", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_serial_is_what_the_definition_says(last, challenge, batch):
    layers = (
        layer(9, 6, "relu", 1, challenge, clip=0.5),
        layer(7, 9, "tanh", 2, challenge),
        layer(8, 7, "relu", 3, challenge, sparse=False),
        layer(5, 8, last, 4, challenge),
    )
    model = Model(layers)
    inputs = matrix(10, 6, 9)
    inputs[4] = 0
    made = serial(model, csr_matrix(inputs), batch)
    assert made.shape == (10, 5)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made.toarray(), naive(model, inputs), rtol=1e-5, atol=1e-6)


def test_serial_refuses_a_wrong_width():
    with pytest.raises(InputError, match="4 columns: expected 6"):
        serial(Model((layer(9, 6),)), csr_matrix((2, 4)))


def test_serial_of_dead_samples_keeps_their_places():
    inputs = np.zeros((4, 1024), np.float32)
    inputs[2] = 1
    made = serial(radixnet(1024, 8), csr_matrix(inputs))
    assert made.toarray().any(axis=1).tolist() == [False, False, True, False]


# -- Graph Challenge folders --------------------------------------------------------------------------------------------------


def write_layers(folder, neurons, matrices):
    folder.mkdir(exist_ok=True)
    for k, dense in enumerate(matrices, 1):
        outputs, inputs = np.nonzero(dense)
        lines = [f"{i + 1}\t{o + 1}\t{dense[o, i]:e}\n" for o, i in zip(outputs, inputs, strict=True)]
        (folder / f"n{neurons}-l{k}.tsv").write_text("".join(lines))
    return folder


def test_import_of_a_folder_takes_rows_as_inputs_and_numeric_order(tmp_path):
    dense = [matrix(6, 6, k) for k in range(11)]
    model = import_model(write_layers(tmp_path / "odd", 6, dense), bias=-0.25, rule="challenge", clip=3)
    assert model.name == "odd"
    for made, expected in zip(model.layers, dense, strict=True):
        np.testing.assert_allclose(made.weights.scipy().toarray(), expected, rtol=1e-6)
        assert (made.activation, made.clip, made.challenge, set(made.bias)) == ("relu", 3.0, True, {np.float32(-0.25)})


def test_an_official_folder_gets_the_challenges_rule_and_another_is_refused(tmp_path):
    official = radixnet(1024, 2)
    folder = write_layers(tmp_path / "n", 1024, [part.weights.scipy().toarray() for part in official.layers])
    assert open_model(str(folder)).digest == official.digest
    assert import_model(folder, rule="challenge", clip=32).digest == official.digest
    assert set(import_model(folder).layers[0].bias) == {0}
    with pytest.raises(InputError, match=r"6 neurons: expected .*1024, 4096, 16384, 65536.*fsd model import"):
        open_model(str(write_layers(tmp_path / "odd", 6, [matrix(6, 6)])))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7\t1\t1", "row 7: expected a whole number from 1 to 6"),
        ("1\t0\t1", "column 0: expected a whole number from 1 to 6"),
        ("1.5\t1\t1", "row 1.5: expected a whole number"),
        ("1\t1\tnan", "value nan"),
        ("1\t1\t1e39", "value 1e.39"),
        ("1\t1", "expected 'row column value'"),
        ("1\t1\t1\t1", "expected 'row column value'"),
        ("1 one 1", "'1 one 1'"),
        ("# note", "'# note'"),
        ("\x00\xff\x01", "expected 'row column value'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    folder = write_layers(tmp_path / "m", 6, [matrix(6, 6), matrix(6, 6)])
    file = folder / "n6-l2.tsv"
    text = file.read_text().splitlines()
    file.write_text("\n".join([*text[:2], line, *text[2:]]), encoding="latin-1")
    with pytest.raises(InputError, match=rf"n6-l2\.tsv, line 3: .*{message}"):
        import_model(folder)


@given(
    st.lists(st.tuples(st.integers(0, 10**10 - 1), st.integers(0, 10**10 - 1)), min_size=1, max_size=9),
    st.sampled_from(["1", "6.250000e-02", "-1", "nan", "x", "1.5 ", "1\r"]),
    st.sampled_from(["\t", " ", ",", "\x00", "  "]),
    st.binary(max_size=2),
    st.integers(0, 60),
)
@settings(max_examples=300)
def test_the_fast_parser_of_tables_agrees_with_the_general_one(pairs, value, separator, noise, place):
    text = "".join(f"{row}{separator}{column}{separator}{value}\n" for row, column in pairs).encode()
    for table in (text, text[:place] + noise + text[place:]):
        if table.strip() and (fast := tsv._uniform(table)) is not None:
            np.testing.assert_array_equal(fast, tsv._any(table))
    if separator in "\t " and value in ("1", "6.250000e-02", "-1", "1\r"):
        assert tsv._uniform(text) is not None


def test_files_that_are_missing_empty_or_double(tmp_path):
    folder = write_layers(tmp_path / "m", 6, [matrix(6, 6)] * 3)
    file = folder / "n6-l2.tsv"
    file.write_text("1\t1\t1\n2\t1\t1\n1\t1\t3\n")
    with pytest.raises(InputError, match=r"n6-l2\.tsv: row 1, column 1 is given twice, the second time as entry 3"):
        import_model(folder)
    file.write_text("")
    with pytest.raises(InputError, match=r"n6-l2\.tsv: is empty"):
        import_model(folder)
    file.unlink()
    with pytest.raises(InputError, match=r"layer 2 is missing: expected n6-l2.tsv, because the last file is layer 3"):
        import_model(folder)
    (folder / "n7-l2.tsv").write_text("1\t1\t1\n")
    with pytest.raises(InputError, match="layers of 6 and 7 neurons"):
        import_model(folder)
    (folder / "n6-l03.tsv").write_text("1\t1\t1\n")
    with pytest.raises(InputError, match="both layer 3"):
        import_model(folder)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", "nowhere: no such folder: expected a model that fsd made"),
        ("a" * 5000, "no such folder"),
        ("empty", "empty: is a folder without a model"),
        ("file.npz", "is a file: expected the folder of a model; 'fsd model import'"),
        ("radixnet:1024", "radixnet:NEURONS:LAYERS"),
        ("radixnet:1024:x", "radixnet:NEURONS:LAYERS"),
        ("radixnet:1000:2", "1000 neurons: .* 1024, 4096, 16384, 65536"),
        ("radixnet:1024:0", "layers 0: expected a whole number of at least 1"),
    ],
)
def test_open_model_says_what_was_expected(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file.npz").touch()
    with pytest.raises(InputError, match=message):
        open_model(spec)


def test_open_model_of_a_radixnet():
    assert open_model("radixnet:1024:7").digest == radixnet(1024, 7).digest
    assert open_model("radixnet:1024:7:5").digest == radixnet(1024, 7, 5).digest


# -- .npz ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
def test_import_of_an_npz_with_sparse_and_dense_layers(tmp_path, first):
    sparse, dense = csr_matrix(matrix(5, 4)).astype(np.float64), matrix(3, 5, 1)
    np.savez(
        tmp_path / "m.npz",
        **{f"{name}_{first}": getattr(sparse, name) for name in ("data", "indices", "indptr", "shape")},
        **{f"weights_{first + 1}": dense, f"bias_{first}": np.arange(5), f"bias_{first + 1}": np.float32(0.5)},
    )
    model = import_model(tmp_path / "m.npz", activation="sigmoid")
    assert (model.name, [part.activation for part in model.layers]) == ("m", ["sigmoid"] * 2)
    np.testing.assert_array_equal(model.layers[0].weights.scipy().toarray(), sparse.toarray())
    np.testing.assert_array_equal(model.layers[1].weights, dense)
    assert [part.bias.tolist() for part in model.layers] == [[0, 1, 2, 3, 4], [0.5] * 3]
    with pytest.raises(InputError, match="expected no bias argument, because layer 1"):
        import_model(tmp_path / "m.npz", bias=1.0)


def test_import_of_one_scipy_matrix(tmp_path):
    dense = matrix(5, 4)
    save_npz(tmp_path / "one.npz", csr_matrix(dense))
    model = import_model(str(tmp_path / "one.npz"), bias=1.5, activation="softmax")
    np.testing.assert_array_equal(model.layers[0].weights.scipy().toarray(), dense)
    assert set(model.layers[0].bias) == {1.5}
    save_npz(tmp_path / "csc.npz", csr_matrix(dense).tocsc())
    with pytest.raises(InputError, match="expected csr"):
        import_model(tmp_path / "csc.npz")


SPARSE = {"data_0": np.ones(2), "indices_0": np.array([0, 1]), "indptr_0": np.array([0, 1, 2]), "shape_0": np.array([2, 3])}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"layers \[\]"),
        ({"w": np.ones((2, 2))}, "array 'w' is unknown"),
        ({"weights_0": np.ones((2, 2)), "weights_2": np.ones((2, 2))}, r"layers \[0, 2\]: .* no gap"),
        ({"weights_2": np.ones((2, 2))}, "no gap"),
        ({"weights_0": np.ones(2)}, "layer key 0: 1 dimensions"),
        ({"weights_0": np.ones((2, 2), complex)}, "layer key 0: .*complex128"),
        ({"weights_0": np.full((2, 2), 1e39)}, "inf"),
        ({"weights_0": np.ones((2, 2)), "bias_0": np.array(["a", "b"])}, "bias of <U1"),
        ({"bias_0": np.ones(2)}, "no weights"),
        (SPARSE | {"weights_0": np.ones((2, 3))}, "has data, indices, indptr, shape, weights: "),
        (SPARSE | {"indptr_0": np.array([0, 2, 1])}, "numbers that ascend from 0 to 2"),
        (SPARSE | {"indptr_0": np.array([0, 2])}, "1 entries of indptr"),
        (SPARSE | {"indices_0": np.array([0, 3])}, "column index 3"),
        (SPARSE | {"indptr_0": np.array([0, 2, 2]), "indices_0": np.array([1, 1])}, "twice"),
        (SPARSE | {"shape_0": np.array([2.0, 3.0])}, "shape: 1 dimensions of float64"),
        (SPARSE | {"data_0": np.array([None, 1], object)}, "cannot be read as .npz"),
        ({"weights_0": np.ones((2, 3)), "weights_1": np.ones((2, 3))}, "layer 1 has 2 outputs"),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(InputError, match=rf"m\.npz: .*{message}"):
        import_model(tmp_path / "m.npz")


def test_import_refuses_what_it_does_not_know(tmp_path):
    for name, body in (("a.npz", b"PK\x03\x04 cut"), ("b.npz", b""), ("c.npz", b"\x80\x04K\x01.")):
        (tmp_path / name).write_bytes(body)
        with pytest.raises(InputError, match=rf"{name}: cannot be read as .npz"):
            import_model(tmp_path / name)
    np.save(tmp_path / "d.npy", np.ones(3))
    (tmp_path / "d.npy").rename(tmp_path / "d.npz")
    with pytest.raises(InputError, match=r"single \.npy array"):
        import_model(tmp_path / "d.npz")
    with pytest.raises(InputError, match="no such file"):
        import_model(tmp_path / "none.npy")
    (tmp_path / "x.onnx").touch()
    with pytest.raises(InputError, match="is an ONNX model: expected another source here"):
        import_model(tmp_path / "x.onnx")
    save_npz(tmp_path / "ok.npz", random_array((3, 3), density=0.5, format="csr", rng=np.random.default_rng(0)))
    with pytest.raises(InputError, match="rule 'none': expected one of plain, challenge"):
        import_model(tmp_path / "ok.npz", rule="none")
    with pytest.raises(InputError, match=r"clip 1\.0: expected None for activation tanh"):
        import_model(tmp_path / "ok.npz", activation="tanh", clip=1)
    with pytest.raises(InputError, match="bias: entry 0 is inf"):
        import_model(tmp_path / "ok.npz", bias=1e39)
