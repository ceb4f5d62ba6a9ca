"""What callers give: their data stays as it is, whatever its format and dtype, and a wrong argument is named before anything starts."""

from __future__ import annotations

import enum
import os
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import fsd_core
from fsd_core.client.garbage import clean, collect_garbage
from fsd_core.codec import decode, encode
from fsd_core.common import arguments
from fsd_core.demo import digits, network, train
from fsd_core.errors import InputError
from fsd_core.kernel import Block
from fsd_core.model import Csr, Layer, Model, import_model, load, open_model, radixnet, save
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_core.partition import ExchangePlan, Partition, find_partition, partition
from fsd_core.protocol.launch_tree import LaunchTree
from fsd_core.report import find_record, read_record
from fsd_core.report.compare import Case, take_turns

WIDTH = 6
DTYPES = ["f4", "f8", "f2", "i1", "u1", "i4", "u8", "i8", "?", ">f4", ">f8", ">i2", "g"]
SPARSE = ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"]


def one_layer(width: int = WIDTH, outputs: int = 5) -> Model:
    weights = np.random.default_rng(3).integers(-3, 4, (outputs, width)).astype(np.float32)
    return Model((Layer(weights, np.float32(0.5), "identity", None, False),), "one")


def buffers(value: Any) -> list[np.ndarray]:
    """The caller's own arrays in a matrix: what may not change."""
    if isinstance(value, np.ndarray):
        return [value]
    names = ("data", "indices", "indptr", "row", "col", "offsets", "rows")
    return [each for name in names if isinstance(each := getattr(value, name, None), np.ndarray)]


def snapshot(value: Any) -> list[Any]:
    """Bytes, dtype and layout of each buffer, and that it is the very same object; of a list its text."""
    if isinstance(value, list):
        return [repr(value)]
    kept = [(id(each), each.dtype.str, each.shape, each.strides, each.flags.writeable, bytes(each.tobytes())) for each in buffers(value)]
    inner = {"dok": lambda: sorted(value.items()), "lil": lambda: (value.rows.tolist(), value.data.tolist())}
    return [*kept, repr(inner.get(getattr(value, "format", ""), str)())]


def set_writeable(value: Any, on: bool) -> None:
    for each in buffers(value):
        each.flags.writeable = on


@st.composite
def samples(draw: st.DrawFn) -> tuple[Any, np.ndarray]:
    """Something to give as inputs of width 6, and the float64 matrix that numpy and scipy say it is."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, dtype = 2 * draw(st.integers(1, 4)), np.dtype(draw(st.sampled_from(DTYPES)))
    dense = np.where(rng.random((rows, WIDTH)) < 0.5, rng.integers(0 if dtype.kind in "u?" else -3, 4, (rows, WIDTH)), 0).astype(dtype)
    kind = draw(st.sampled_from(["dense", "fortran", "strided", "memmap", "list", "matrix", *SPARSE]))
    if kind in SPARSE:
        made, expected = sparse(draw, rng, dense.astype(np.float32) if dtype.str in ("<f2", ">f2") else dense, kind)
    else:
        made = {
            "dense": lambda: dense.copy(),
            "fortran": lambda: np.asfortranarray(dense),
            "strided": lambda: np.repeat(dense, 2, axis=0)[::2][::-1],
            "memmap": lambda: dense.copy(),
            "list": lambda: dense.tolist(),
            "matrix": lambda: np.asmatrix(dense),
        }[kind]()
        expected = np.asarray(made)
    if not isinstance(made, list) and draw(st.booleans()):
        set_writeable(made, False)
    return made, expected.astype(np.float64)


def sparse(draw: st.DrawFn, rng: np.random.Generator, dense: np.ndarray, kind: str) -> tuple[Any, np.ndarray]:
    """In one of scipy's formats, with what its format allows: entries twice, stored zeros, any order, any index dtype. And its values."""
    native = dense.astype(dense.dtype.newbyteorder("="))
    if kind in ("coo", "csr", "csc") and draw(st.booleans()):
        count = int(rng.integers(0, 20))
        where = (rng.integers(0, dense.shape[0], count), rng.integers(0, WIDTH, count))
        low = 0 if dense.dtype.kind in "u?" else -2
        coo = sp.coo_matrix((rng.integers(low, 3, count).astype(native.dtype), where), dense.shape)  # some twice, some zero
    else:
        coo = sp.coo_matrix(native)
    array = draw(st.booleans())
    if kind == "coo":
        made = (sp.coo_array if array else sp.coo_matrix)(coo)
        names = ["row", "col"] if not array else []
    elif kind in ("csr", "csc"):
        made = _unsorted(rng, coo, kind, array)
        names = ["indices", "indptr"]
    else:
        made = sp.bsr_matrix(native, blocksize=(2, 3)) if kind == "bsr" else sp.coo_matrix(native).asformat(kind)
        names = ["indices", "indptr"] if kind == "bsr" else []
    expected = made.toarray()
    index = draw(st.sampled_from(["i4", "i8", "u1", "u8", ">i4", "i2"]))
    for name in names:
        setattr(made, name, getattr(made, name).astype(index))
    if not dense.dtype.isnative and kind in ("coo", "csr", "csc", "bsr"):
        made.data = made.data.astype(dense.dtype)
    return made, expected


def _unsorted(rng: np.random.Generator, coo: sp.coo_matrix, kind: str, array: bool) -> Any:
    """Compressed by hand: scipy's own conversion would sort and add up."""
    major, minor = (coo.row, coo.col) if kind == "csr" else (coo.col, coo.row)
    order = np.lexsort((rng.random(len(major)), major))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(major, minlength=coo.shape[0 if kind == "csr" else 1]))])
    make = getattr(sp, f"{kind}_{'array' if array else 'matrix'}")
    return make((coo.data[order], minor[order].astype(np.int32), indptr.astype(np.int32)), shape=coo.shape)


@settings(max_examples=400)
@given(samples())
def test_inputs_of_any_kind_are_read_right_and_left_alone(drawn: tuple[Any, np.ndarray]) -> None:
    given_, expected = drawn
    before = snapshot(given_)
    made = arguments.matrix("inputs", given_, WIDTH)
    assert snapshot(given_) == before
    np.testing.assert_array_equal(made.toarray(), expected.astype(np.float32))
    assert (made.dtype, made.has_canonical_format, bool(made.data.all())) == (np.float32, True, True)
    for mine in buffers(made):
        mine.flags.writeable = True  # and writing to it changes nothing of the caller's
        mine[...] = 0
    assert snapshot(given_) == before


@settings(max_examples=60)
@given(samples())
def test_serial_leaves_its_inputs_alone(drawn: tuple[Any, np.ndarray]) -> None:
    given_, expected = drawn
    model, before = one_layer(), snapshot(drawn[0])
    made = serial(model, given_)
    np.testing.assert_allclose(made.toarray(), expected @ model.layers[0].weights.T.astype(np.float64) + 0.5, rtol=1e-5)
    assert snapshot(given_) == before


@settings(max_examples=4)
@given(samples(), st.integers(1, 2))
def test_a_run_leaves_its_inputs_alone(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Any, np.ndarray], workers: int) -> None:
    given_, expected = drawn
    model, before = one_layer(), snapshot(drawn[0])
    home = tmp_path_factory.mktemp("home")
    made = fsd_core.run(model, given_, workers=workers, partition="block", home=home, settings={"root": home / "root"})
    np.testing.assert_allclose(made.output.toarray(), expected @ model.layers[0].weights.T.astype(np.float64) + 0.5, rtol=1e-4)
    assert snapshot(given_) == before


def test_a_second_run_of_a_product_gives_the_same_answer(tmp_path: Path) -> None:
    """A product's indices are in no order: sorted in place they no longer belong to its float64 values."""
    left = sp.random(10, 40, 0.3, "csr", random_state=np.random.RandomState(2))
    x = left @ sp.random(40, WIDTH, 0.3, "csr", random_state=np.random.RandomState(3))
    assert not x.has_sorted_indices
    model, before = one_layer(), x.toarray()
    for _ in range(2):
        made = fsd_core.run(model, x, tensor_parallel=2, home=tmp_path, settings={"root": str(tmp_path / "root")})
        np.testing.assert_allclose(made.output.toarray(), before @ model.layers[0].weights.T + 0.5, rtol=1e-4)
    np.testing.assert_array_equal(x.toarray(), before)


def test_a_memory_map_is_read_and_not_kept(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(3, WIDTH))
    mapped[:] = np.eye(3, WIDTH)
    layer = Layer(mapped, np.float32(0), "identity", None, False)
    made, digest = arguments.matrix("inputs", mapped, WIDTH), layer.checksum
    mapped[:] = 7
    np.testing.assert_array_equal(made.toarray(), np.eye(3, WIDTH))
    np.testing.assert_array_equal(layer.weights, np.eye(3, WIDTH))
    assert Layer(layer.weights, np.float32(0), "identity", None, False).checksum == digest


@settings(max_examples=100)
@given(
    st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u8", ">i4", ">i8"]),
    st.sampled_from(["i1", "i4", "i8", "u2", "u8", ">i4"]),
    st.sampled_from(["<f4", ">f4"]),
    st.booleans(),
    st.booleans(),
)
def test_a_layer_keeps_nothing_that_its_maker_can_change(starts: str, index: str, value: str, read_only: bool, through_build: bool) -> None:
    dense = np.array([[0, 1, 2], [3, 0, 0]], np.float32)
    arrays = [np.array([0, 2, 3], starts), np.array([1, 2, 0], index), np.array([1, 2, 3], value), np.array([5, 6], value)]
    if through_build:
        arrays[0] = np.array([0, 0, 1], starts)
    for each in arrays:
        each.flags.writeable = not read_only
    before = [each.tobytes() for each in arrays]
    make = Csr.build if through_build else Csr
    layer = Layer(make(*arrays[:3], (2, 3)), arrays[3], "relu", None, False)
    model = Model([layer])
    digest = model.digest
    assert [each.tobytes() for each in arrays] == before
    assert [each.flags.writeable for each in arrays] == [not read_only] * 4
    np.testing.assert_array_equal(layer.weights.scipy().toarray(), dense)
    if not read_only:
        for each in arrays:
            each[...] = 1
    np.testing.assert_array_equal(layer.weights.scipy().toarray(), dense)
    assert layer.bias.tolist() == [5, 6]
    assert Model([Layer(layer.weights, layer.bias, "relu", None, False)]).digest == digest
    assert not any(each.flags.writeable for each in layer.arrays.values())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_dense_weights_of_any_layout_are_copied(order: Any, dtype: str) -> None:
    weights = np.array([[1, 2, 3], [4, 5, 6]], dtype, order=order)
    shown = weights[:]
    shown.flags.writeable = False  # the caller can still write through ``weights``
    layer = Layer(shown, 0, "identity", None, False)
    weights[0, 0] = 9
    assert layer.weights.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_what_nobody_can_write_to_is_shared() -> None:
    for weights in (np.frombuffer(np.ones((2, 3), np.float32).tobytes(), np.float32).reshape(2, 3), arguments.fresh(np.ones((2, 3), "f4"))):
        assert np.shares_memory(Layer(weights, 0, "identity", None, False).weights, weights)
    layers = radixnet(1024, 3).layers
    assert np.shares_memory(layers[0].weights.values, layers[2].weights.values)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", ">i4", "i8", "u8"])
def test_a_partition_keeps_nothing_that_its_maker_can_change(dtype: str) -> None:
    model, owners = one_layer(3, 2), [np.array([0, 1, 0], dtype), np.array([1, 0], dtype)]
    made = Partition(np.int64(2), owners)
    digest, plan = made.digest, ExchangePlan(model, made)
    assert [owner.tolist() for owner in owners] == [[0, 1, 0], [1, 0]]
    owners[0][:] = 1
    assert [owner.tolist() for owner in made.owners] == [[0, 1, 0], [1, 0]]
    assert Partition(2, made.owners).digest == digest
    assert (type(made.workers), {owner.dtype for owner in made.owners}) == (int, {np.dtype(np.int32)})
    assert plan.inputs(0).tolist() == [0, 1, 2]


def test_the_codec_and_a_saved_model_leave_their_arrays_alone(tmp_path: Path) -> None:
    values, live = np.array([[0, 1, 2], [0, 0, 0]], np.float32), np.array([0, 2], np.int32)
    values.flags.writeable = live.flags.writeable = False
    block = decode(encode(Block(values, live, 3)), 2, 3)
    np.testing.assert_array_equal(block.dense(), [[1, 0, 2], [0, 0, 0]])
    model = one_layer()
    before = [each.tobytes() for each in model.layers[0].arrays.values()]
    save(model, tmp_path / "m")
    assert [each.tobytes() for each in model.layers[0].arrays.values()] == before
    assert load(tmp_path / "m").digest == model.digest


# -- wrong ones -----------------------------------------------------------------------------------------------------------------


class Word(str, enum.Enum):  # noqa: UP042  # it prints as Word.QUEUE
    QUEUE = "queue"


X = np.ones((2, WIDTH), np.float32)
WRONG: list[tuple[str, Any, str]] = [
    *[
        (name, value, f"{name} {shown}: expected a whole number of at least")
        for name in ("workers", "branching", "batch_size", "seed")
        for value, shown in [("2", "'2'"), (2.0, "2.0"), (np.float64(2), "2.0"), (True, "True"), (np.bool_(True), "True"), (-1, "-1")]
    ],
    ("workers", np.array([2]), r"workers \(ndarray of shape \(1,\) and dtype int64\): expected a whole"),
    ("workers", None, "workers None"),
    ("workers", 1 + 0j, r"workers \(1\+0j\)"),
    ("seed", None, "seed None"),
    ("seed", 10**5000, "seed with thousands of digits: expected a whole number of at most"),
    ("branching", np.ma.array(2), "branching .MaskedArray"),
    ("batch_size", 0, "batch_size 0: expected a whole number of at least 1"),
    ("batch_size", np.timedelta64(3), "batch_size"),
    *[("timeout", value, f"timeout {value!r}: expected a number of seconds") for value in (None, "5", True, 0, -1.0, 1j, float("nan"))],
    ("timeout", np.float32("inf"), "timeout inf"),
    ("timeout", 1e300, r"timeout 1e\+300"),
    ("timeout", 10**400, "timeout 1000"),
    ("channel", "pigeon", "channel 'pigeon': expected one of auto, queue, object, hybrid"),
    ("channel", None, "channel None"),
    ("channel", np.array(["queue", "object"]), "channel .ndarray"),
    ("objective", 3, "objective 3: expected one of cost, latency"),
    ("provider", None, "provider None: expected a text"),
    ("provider", "nowhere", "provider 'nowhere' is not installed"),
    ("provider", Path("local"), "provider 'local': expected a text"),
    ("app", b"app", "app b'app': expected a text"),
    ("app", "Not An App", "app 'Not An App'"),
    ("faults", {"delay": 1}, r"faults \(a dict\): expected a text"),
    ("faults", "", "faults '': expected a text"),
    ("faults", "gremlins=1", "gremlins"),
    ("settings", [("root", "x")], r"settings \(a list\): expected a mapping"),
    ("settings", {3: "x"}, "settings: the name 3: expected a text"),
    ("settings", {"colour": "red"}, "colour"),
    ("note", {"trial": 3}, r"note\['trial'\] 3: expected a text"),
    ("note", "text", "note 'text': expected a mapping"),
    ("progress", 5, "progress 5: expected a function or None"),
    ("home", "", "home '': expected a path"),
    ("home", 3, "home 3: expected a path"),
    ("home", "a\0b", r"home 'a\\x00b': expected a path"),
    ("partition", None, "partition None: expected a Partition, one of hypergraph"),
    ("partition", ["block"], r"partition \(a list\)"),
    ("partition", Path("block"), "partition block: no such file or folder"),
    ("model", None, "model None: expected a Model"),
    ("model", X, "model .ndarray of shape"),
    ("model", Path("radixnet:1024:2"), "radixnet:1024:2: no such folder"),
    ("inputs", Path("digits"), "digits: no such file"),
    ("inputs", None, "inputs None: expected an array of real numbers"),
    ("inputs", b"x.npz", "inputs b'x.npz'"),
    ("inputs", 5.0, "inputs 5.0: expected an array of 2 dimensions"),
    ("inputs", X[0], r"inputs .*\(6,\).*: expected an array of 2 dimensions"),
    ("inputs", X[None], r"inputs .*\(1, 2, 6\)"),
    ("inputs", X[:, :4], "inputs have 4 columns: expected 6, the number of inputs of the model"),
    ("inputs", X[:0], "inputs have no samples"),
    ("inputs", X.astype(complex), "inputs .*complex128.*: expected an array of real numbers"),
    ("inputs", X.astype(str), "inputs .*: expected an array of real numbers"),
    ("inputs", X.astype(object), "inputs .*object"),
    ("inputs", X.astype("M8[s]"), "inputs .*datetime64"),
    ("inputs", np.ma.masked_less(X, 2), "inputs .*: expected an array without a mask"),
    ("inputs", [np.ma.masked_less(X[0], 2)], "inputs .*: expected an array without a mask"),
    ("inputs", [[1.0] * WIDTH, [1.0]], "inputs .*: expected an array of numbers; numpy cannot convert it"),
    ("inputs", [[None] * WIDTH], "inputs .*object"),
    ("inputs", (row for row in X), r"inputs \(a generator\)"),
    ("inputs", X * np.nan, "inputs: the value in row 0, column 0 .* is not finite"),
    ("inputs", X.astype(np.float64) * 1e300, "inputs: .* not finite as float32"),
    ("inputs", sp.csr_matrix(X * 1j), "inputs .*complex"),
    ("inputs", sp.coo_array(X[0]), "inputs .*: expected a matrix of 2 dimensions"),
]


def damaged() -> Iterator[tuple[Any, str]]:
    """Sparse matrices whose indices do not fit: scipy would read and write outside of its arrays."""
    for kind in ("csr", "csc", "bsr"):
        for name, at, value in (("indices", 0, 99), ("indices", 0, -1), ("indptr", -1, 99), ("indptr", 1, -5), ("indptr", 0, 1)):
            made = sp.csr_matrix(X).asformat(kind).copy()
            getattr(made, name)[at] = value
            yield made, "inputs: ind"
    made = sp.csr_matrix(X)
    made.indices = made.indices.astype(float)
    yield made, "inputs: index .*expected an array of whole numbers"
    for name in ("row", "col"):
        other = sp.coo_matrix(X)
        getattr(other, name)[0] = 99
        yield other, "inputs: index 99: expected a whole number from 0 to"


WRONG += [("inputs", *each) for each in damaged()]


@pytest.mark.parametrize(("name", "value", "words"), WRONG, ids=[f"{name}-{number}" for number, (name, *_) in enumerate(WRONG)])
def test_a_wrong_argument_of_a_run_is_named_before_anything_starts(tmp_path: Path, name: str, value: Any, words: str) -> None:
    home, told = tmp_path / "home", []
    right: dict[str, Any] = {"model": one_layer(), "inputs": X, "partition": "block", "home": home, "settings": {"root": tmp_path / "root"}}
    with pytest.raises(InputError, match=words) as caught:
        fsd_core.run(**(right | {"progress": told.append, "workers": 1} | {name: value}))
    assert "\n" not in str(caught.value)
    assert (told, os.listdir(tmp_path)) == ([], [])


M, P = one_layer(), Partition(2, [np.zeros(WIDTH, int), np.ones(5, int)])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: serial("m", X), "model 'm': expected a Model"),
        (lambda: serial(M, X, batch=0), "batch 0: expected a whole number of at least 1"),
        (lambda: Model(M.layers[0]), r"layers \(a Layer\): expected a list"),
        (lambda: Model([3]), r"layers \(a list\): expected a list or tuple of Layer"),
        (lambda: Model(M.layers, 3), "name 3: expected a text"),
        (lambda: radixnet("1024", 2), "neurons '1024': expected a whole number"),
        (lambda: radixnet(1024, 2.5), "layers 2.5: expected a whole number"),
        (lambda: open_model(None), "model None"),
        (lambda: open_inputs(None, 3), "inputs None"),
        (lambda: open_inputs("digits", "3"), "width '3'"),
        (lambda: import_model(None), "source None: expected a path"),
        (lambda: import_model("m.npz", bias="0"), "bias '0': expected a finite number"),
        (lambda: import_model("m.npz", rule=None), "rule None: expected one of plain, challenge"),
        (lambda: save("m", "folder"), "model 'm': expected a Model"),
        (lambda: save(M, None), "path None: expected a path"),
        (lambda: load(3), "path 3: expected a path"),
        (lambda: partition(None, 2), "model None: expected a Model"),
        (lambda: partition(M, "2"), "workers '2'"),
        (lambda: partition(M, 2, None), "method None: expected one of hypergraph"),
        (lambda: partition(M, 2, seed=1.5), "seed 1.5"),
        (lambda: partition(M, 2, progress=3), "progress 3: expected a function"),
        (lambda: find_partition(7, M, 2, 0, Path()), "partition 7"),
        (lambda: find_partition("block", M, None, 0, Path()), "workers None"),
        (lambda: Partition("2", P.owners), "workers '2'"),
        (lambda: Partition(2, 5), "owners 5: expected a list"),
        (lambda: Partition(2, [np.zeros(3)]), "owner_0 .*: expected an array of whole numbers"),
        (lambda: Partition(2, [np.array([2**40])]), "owner_0 names rank 1099511627776"),
        (lambda: P.save(None), "path None"),
        (lambda: P.check(None), "model None"),
        (lambda: Partition.load(None, M), "path None"),
        (lambda: ExchangePlan(M, None), "partition None: expected a Partition"),
        (lambda: LaunchTree(2.0, 4), "workers 2.0"),
        (lambda: LaunchTree(2, None), "branching None"),
        (lambda: clean(provider=None), "provider None"),
        (lambda: clean(app=3), "app 3"),
        (lambda: clean(settings=3), "settings 3"),
        (lambda: clean(settings={"root": "unused"}, home=3), "home 3"),
        (lambda: collect_garbage(app="A"), "app 'A'"),
        (lambda: arguments.home(b"/tmp"), "home b'/tmp'"),
        (lambda: take_turns([Case("local", "queue", 1)], 0, {}, None, None), "repeat 0"),
        (lambda: digits("1"), "seed '1'"),
        (lambda: network(None), "home None"),
        (lambda: train(digits(), progress=1), "progress 1"),
        (lambda: find_record(None, "home"), "run None"),
        (lambda: read_record(3), "path 3"),
    ],
)
def test_a_wrong_argument_of_any_other_function_is_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_numpy_numbers_and_paths_are_as_good_as_pythons(tmp_path: Path) -> None:
    model, x = one_layer(), tmp_path / "x.npz"
    save(model, tmp_path / "m")
    sp.save_npz(x, sp.csr_matrix(X))
    partition(model, np.int8(2), "block").save(tmp_path / "p.npz")

    class Place(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(tmp_path / "m")

    result = fsd_core.run(
        Place(),
        x,
        workers=np.int64(2),
        branching=np.uint8(4),
        batch_size=np.array(1),
        seed=np.uint64(7),
        timeout=np.float32(100),
        channel=Word.QUEUE,
        partition=tmp_path / "p.npz",
        home=Place(),
        note={"why": np.str_("because")},
        settings={"root": tmp_path / "root", "lease_s": np.float32(2), "concurrency": np.int16(4)},
    )
    np.testing.assert_allclose(result.output.toarray(), serial(model, X).toarray())
    record = read_record(find_record(result.run, Place()))
    assert record["note"] == {"model": str(tmp_path / "m"), "input": str(x), "why": "because"}
    assert (record["seed"], record["workers"], record["channel"], record["batches"]) == (7, 2, "queue", [1, 1])


@pytest.mark.parametrize("value", [2, np.float16(2), np.array(2), Fraction(4, 2), Decimal(2), np.longdouble(2), np.uint8(2)])
def test_any_real_number_is_one(value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert arguments.seconds("timeout", value) == 2.0
