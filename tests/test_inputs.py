"""The readers of INPUT, the samples of a run."""

import gzip
import lzma
import re
import sys

import numpy as np
import pytest
from scipy.sparse import csr_matrix, save_npz

from fsd_core.errors import InputError
from fsd_core.model.inputs import open_inputs

LINES = "1\t3\t1\n1\t1\t0.5\n4\t2\t-2e-1\n"
DENSE = np.array([[0.5, 0, 1], [0, 0, 0], [0, 0, 0], [0, -0.2, 0]], np.float32)


def write(path, text):
    openers = {".gz": gzip.open, ".xz": lzma.open}
    with openers.get(path.suffix, open)(path, "wt") as file:
        file.write(text)
    return str(path)


def check(inputs, dense):
    assert isinstance(inputs, csr_matrix)
    assert inputs.dtype == np.float32
    assert inputs.has_canonical_format
    assert inputs.data.flags.writeable
    np.testing.assert_array_equal(inputs.toarray(), dense)


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz", "x.tsv.xz"])
@pytest.mark.parametrize("text", [LINES, LINES.rstrip("\n"), LINES.replace("\n", "\r\n"), LINES.replace("\t", " "), "\n" + LINES])
def test_tables_are_padded_to_the_width(tmp_path, name, text):
    check(open_inputs(write(tmp_path / name, text), 3), DENSE)
    check(open_inputs(write(tmp_path / name, text), 5), np.pad(DENSE, ((0, 0), (0, 2))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINES + "2\t9\t1\n", "line 4: column 9: expected a whole number from 1 to 3"),
        (LINES + "0\t1\t1\n", "line 4: row 0: expected a whole number from 1"),
        (LINES + "99999999999\t1\t1\n", "line 4: row 99999999999: expected a whole number from 1"),
        (LINES + "inf\t1\t1\n", "line 4: row inf"),
        (LINES + "2\t1\tinf\n", "line 4: value inf"),
        (LINES + "2,1,1\n", "line 4: '2,1,1'"),
        (LINES + "1\t3\t1\n", "row 1, column 3 is given twice"),
        ("1\t1\n2\t1\n", "line 1: '1"),
        ("", "is empty"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, text, message):
    with pytest.raises(InputError, match=rf"x\.tsv.*{message}"):
        open_inputs(write(tmp_path / "x.tsv", text), 3)


@pytest.mark.parametrize(("name", "pack"), [("x.tsv.gz", gzip.compress), ("x.tsv.xz", lzma.compress)])
def test_broken_compression_is_named(tmp_path, name, pack):
    packed = pack(("\n".join(f"{k}\t1\t1" for k in range(1, 5000))).encode())
    for body in (packed[: len(packed) // 2], b"not packed", packed[:-30] + bytes(30)):
        (tmp_path / name).write_bytes(body)
        with pytest.raises(InputError, match=re.escape(name)):
            open_inputs(str(tmp_path / name), 3)


def test_arrays(tmp_path):
    path = str(tmp_path / "x.npz")
    shuffled = csr_matrix(DENSE.astype(np.float64))
    shuffled.indices[:2], shuffled.data[:2] = [2, 0], [1, 0.5]
    save_npz(path, shuffled)
    check(open_inputs(path, 3), DENSE)
    np.savez(path, anything=DENSE)
    check(open_inputs(path, 3), DENSE)
    np.savez(path, x=DENSE != 0, other=np.ones(7))
    check(open_inputs(path, 3), DENSE != 0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": DENSE[:, :2]}, "samples of width 2: expected width 3"),
        ({"x": np.ones((2, 4))}, "samples of width 4: expected width 3"),
        ({"x": np.ones(3)}, "1 dimensions of float64"),
        ({"x": np.ones((2, 3), complex)}, "complex128"),
        ({"x": np.full((2, 3), np.nan)}, "is nan"),
        ({"x": np.full((2, 3), 1e39)}, "is inf"),
        ({"x": np.ones((0, 3))}, "empty"),
        ({"a": np.ones((2, 3)), "b": np.ones((2, 3))}, r"2 arrays \(a, b\)"),
        ({}, r"0 arrays \(none\)"),
        ({"x": np.array([[None]])}, "cannot be read"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=rf"x\.npz.*{message}"):
        open_inputs(str(tmp_path / "x.npz"), 3)


def test_a_file_without_samples_is_refused(tmp_path):
    save_npz(tmp_path / "x.npz", csr_matrix((0, 3), dtype=np.float32))
    with pytest.raises(InputError, match=r"x\.npz: no samples: expected at least one"):
        open_inputs(tmp_path / "x.npz", 3)


def test_a_sparse_matrix_of_contradicting_arrays_is_refused(tmp_path):
    good = {"format": b"csr", "shape": [2, 3], "data": [1.0, 2.0], "indices": [0, 2], "indptr": [0, 1, 2]}
    wrong = {"indices": [[0, 3], [0, -1]], "indptr": [[0, 1, 9], [0, 9, 2], [0, 2]], "shape": [[2], [2, 2]], "data": [[1.0], ["a", "b"]]}
    for change in ({key: value} for key, values in wrong.items() for value in values):
        np.savez(tmp_path / "x.npz", **good | change)
        with pytest.raises(InputError, match=r"x\.npz: "):
            open_inputs(str(tmp_path / "x.npz"), 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("none.tsv", "no such file"), (".", "is a folder"), ("x.csv", r"\.npy, \.tsv"), ("a" * 5000, "no such file")],
)
def test_names_of_no_input_are_refused(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").touch()
    with pytest.raises(InputError, match=message):
        open_inputs(spec, 3)


def test_random_is_seeded_and_grows():
    made = open_inputs("random:300:0.1:7", 64)
    assert made.shape == (300, 64)
    assert 0.05 < made.nnz / (300 * 64) < 0.15
    assert 0 < made.data.min() < made.data.max() <= 2
    assert 0.9 < made.data.mean() < 1.1
    check(open_inputs("random:500:0.1:7", 64)[:300], made.toarray())
    assert (open_inputs("random:300:0.1:8", 64) != made).nnz
    assert open_inputs("random:2:1", 64).nnz == 128
    assert open_inputs("random:2", 64).shape == (2, 64)


@pytest.mark.parametrize("fields", ["", "0", "x", "5:0", "5:1.1", "5:nan", "5:.1:-1", "5:.1:1:1", "1000000000"])
def test_random_refuses(fields):
    with pytest.raises(InputError, match="SAMPLES from 1"):
        open_inputs(f"random:{fields}", 64)


def test_digits_raw_and_scaled():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn (extra demo) is not installed")
    raw = open_inputs("digits", 64)
    np.testing.assert_allclose(raw.toarray(), datasets.load_digits().data / 16)
    for width in (1024, 4096):
        made = open_inputs("digits", width)
        assert made.shape == (1797, width)
        assert set(made.data) == {1}
        assert 0.08 < made.nnz / (1797 * width) < 0.15
        assert made.getnnz(axis=1).min() > 0
    images = open_inputs("digits", 1024).toarray().reshape(-1, 32, 32)
    assert not images[:, :4].any()
    assert not images[:, :, 27:].any()
    middle = (4 + (np.arange(8) + 0.5) * 23 / 8).astype(int)  # the centres of the old pixels in the new image
    same = images[:, middle][:, :, middle] == (datasets.load_digits().images > 10)
    assert same.mean() > 0.9


@pytest.mark.parametrize("width", [1000, 49, 65])
def test_digits_of_another_width_name_both(width):
    with pytest.raises(InputError, match=f"64 .* takes width {width}"):
        open_inputs("digits", width)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"scikit-learn is not installed: .* install fsd-inference\[demo\]"):
        open_inputs("digits", 64)


def test_an_npy_file_has_the_array_of_the_samples(tmp_path):
    array = np.random.default_rng(1).random((3, 2, 4), np.float32)
    np.save(tmp_path / "x.npy", array)
    np.testing.assert_array_equal(open_inputs(tmp_path / "x.npy", 8).toarray(), array.reshape(3, 8))
    np.savez(tmp_path / "x.npz", array)
    np.testing.assert_array_equal(open_inputs(tmp_path / "x.npz", 8).toarray(), array.reshape(3, 8))
    with pytest.raises(InputError, match=r"x.npy: 3 dimensions of float32: expected a matrix of real numbers"):
        open_inputs(tmp_path / "x.npy", 9)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[:7], lambda data: b"PK" + data])
def test_a_damaged_npy_file_is_named(tmp_path, damage):
    np.save(tmp_path / "x.npy", np.ones((3, 4), np.float32))
    (tmp_path / "x.npy").write_bytes(damage((tmp_path / "x.npy").read_bytes()))
    with pytest.raises(InputError, match=r"x.npy: cannot be read as .npy: "):
        open_inputs(tmp_path / "x.npy", 4)
