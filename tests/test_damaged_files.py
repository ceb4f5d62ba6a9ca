"""Damaged and odd files: each reader returns the content, or raises one line that names the file."""

from __future__ import annotations

import bz2
import codecs
import io
import json
import math
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fsd_core import config, cost
from fsd_core.cli import main
from fsd_core.client.outputs import check_output, read_truth, write_output
from fsd_core.errors import InputError
from fsd_core.model import Layer, Model, import_model, load, open_model, save
from fsd_core.model.inputs import open_inputs
from fsd_core.model.npz import members, read_npz
from fsd_core.model.tsv import read_table
from fsd_core.partition import Partition, partition
from fsd_core.report import read_record

MODEL = Model([Layer(np.ones((5, 6), np.float32), 0, "identity", None, False)])
SPARSE = sp.csr_matrix(np.eye(3, 6, dtype=np.float32))


def npy(array: Any, *, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version)
    return file.getvalue()


def header(text: str, body: bytes = b"") -> bytes:
    """The bytes of an .npy with this header."""
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + body


def archive(path: Path, members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, body in members:
            file.writestr(name, body)
    return path


READERS: dict[str, Callable[[Path], object]] = {
    "npz": read_npz,
    "inputs": lambda path: open_inputs(path, 6),
    "import": lambda path: import_model(path),
    "partition": lambda path: Partition.load(path, MODEL),
}


def one_line(read: Callable[[], object], *words: str) -> None:
    """Check that ``read`` raises InputError, one line with all of these words."""
    with pytest.raises(InputError) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    for word in words:
        assert word in text


@contextmanager
def read_or_refused(path: Path) -> Iterator[None]:
    """Check that the block raises nothing, or an InputError of one line that names the file."""
    text = str(path)
    try:
        yield
    except InputError as error:
        text = str(error)
    assert "\n" not in text
    assert str(path) in text


ODD: list[tuple[str, list[tuple[str, bytes]], str]] = [
    ("bare text", [("x", b"1 2 3")], "array 'x': not an array"),
    ("text with the suffix", [("x.npy", b"1 2 3")], "array 'x': not an array"),
    ("an empty member", [("x.npy", b"")], "array 'x': not an array"),
    ("half a magic", [("x.npy", b"\x93NUM")], "array 'x': not an array"),
    ("a folder", [("x.npy/", b"")], "array 'x.npy/': not an array"),
    ("one beside an array", [("x.npy", npy(np.ones((2, 6)))), ("README", b"hello")], "array 'README': not an array"),
    ("objects", [("x.npy", npy(np.array([None, 1], object)))], "array 'x': an array of Python objects"),
    ("a name twice", [("x", npy(np.ones(3))), ("x.npy", npy(np.ones(3)))], "array 'x': the name occurs twice"),
    ("a later version", [("x.npy", npy(np.ones(3), version=(3, 0)))], "array 'x': .npy format 3.0: expected 1.0 or 2.0"),
    ("no version", [("x.npy", b"\x93NUMPY")], "array 'x': .npy format"),
    ("no header", [("x.npy", b"\x93NUMPY\x01\x00")], "array 'x': "),
    ("a header that is cut", [("x.npy", npy(np.ones(3))[:40])], "array 'x': "),
    ("a header of no dict", [("x.npy", header("[1, 2]"))], "array 'x': "),
    ("a header of a call", [("x.npy", header("__import__('os').getpid()"))], "array 'x': "),
    ("a header that nests", [("x.npy", header("(" * 9000))], "array 'x': "),
    ("a header that is no Python", [("x.npy", header("{'descr': '\x01' 'L"))], "array 'x': "),
    ("a dtype that is none", [("x.npy", header("{'descr': 'spam', 'fortran_order': False, 'shape': (3,)}"))], "array 'x': "),
    ("a shape of terabytes", [("x.npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (10**12,)}"))], "array 'x': "),
    (
        "a large shape",
        [("x.npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000, 6)}", b"1234"))],
        "array 'x': 4 bytes do not fit its shape (4000000000, 6) of float64",
    ),
    ("a negative shape", [("x.npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}", bytes(8)))], "do not fit"),
    ("an array that is cut", [("x.npy", npy(np.ones((2, 6)))[:-1])], "95 bytes do not fit its shape (2, 6) of float64"),
    ("an array with more behind it", [("x.npy", npy(np.ones((2, 6))) + b"!")], "97 bytes do not fit"),
]  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("members", "words"), [each[1:] for each in ODD], ids=[each[0] for each in ODD])
def test_an_archive_with_an_odd_member(tmp_path: Path, reader: str, members: list[tuple[str, bytes]], words: str) -> None:
    path = archive(tmp_path / "a.npz", members)
    one_line(lambda: READERS[reader](path), str(path), words)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["encrypted", "unknown compression", "text", "empty", "one array", "nothing in it", "a folder's link"])
def test_a_file_that_is_no_archive_that_can_be_read(tmp_path: Path, reader: str, kind: str) -> None:
    path = archive(tmp_path / "a.npz", [("x.npy", npy(np.ones((2, 6))))])
    body = bytearray(path.read_bytes())
    for at, mark in ((6, b"PK\x03\x04"), (8, b"PK\x01\x02")):  # flags, and after them the method, in both headers
        where = body.index(mark) + at
        if kind == "encrypted":
            body[where] |= 1
        elif kind == "unknown compression":
            body[where + 2 : where + 4] = struct.pack("<H", 97)
    plain = {"text": b"hello", "empty": b"", "one array": npy(np.ones(3))}
    path.write_bytes(plain.get(kind, bytes(body)))
    if kind == "nothing in it":
        archive(path, [])
    elif kind == "a folder's link":
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    if kind == "nothing in it" and reader == "npz":
        assert read_npz(path) == {}
        return
    one_line(lambda: READERS[reader](path), "a.npz")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_not_read(tmp_path: Path, reader: str, kind: str) -> None:
    path = tmp_path / "f.npz"
    if kind == "pipe":
        os.mkfifo(path)  # to open it would wait for its other end
    else:
        path.symlink_to("/dev/zero")
    one_line(lambda: READERS[reader](path), "f.npz")
    assert members(path) == set()


def test_a_pipe_in_the_folder_of_a_model_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "official").mkdir()
    table = tmp_path / "official" / "n3-l1.tsv"
    os.mkfifo(table)
    one_line(lambda: import_model(table.parent), "n3-l1.tsv", "it is not a regular file")
    save(MODEL, tmp_path / "kept")
    for file in (tmp_path / "kept").iterdir():
        if file.suffix != ".json":
            file.unlink()
            os.mkfifo(file)
    one_line(lambda: load(tmp_path / "kept"), "it is not a regular file")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_any_compression_is_read_and_its_damage_found(tmp_path: Path, compression: int) -> None:
    array = np.random.default_rng(0).random((40, 6))
    path = archive(tmp_path / "a.npz", [("x.npy", npy(array))], compression)
    np.testing.assert_array_equal(read_npz(path)["x"], array)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 16
    path.write_bytes(body)
    one_line(lambda: read_npz(path), str(path), "array 'x'")


def members_of(value: Any) -> list[tuple[str, bytes]]:
    return [(f"{name}.npy", npy(array)) for name, array in value.items()]


BODIES = {
    "inputs": {"format": np.array(b"csr"), "shape": np.array(SPARSE.shape), "data": SPARSE.data, "indices": SPARSE.indices,
        "indptr": SPARSE.indptr},
    "import": {"weights_1": np.ones((5, 6), np.float32), "bias_1": np.ones(5)},
    "partition": {"workers": np.int32(2), "owner_0": np.zeros(6, np.int32), "owner_1": np.ones(5, np.int32)},
}  # fmt: skip


@pytest.mark.parametrize("reader", BODIES)
@settings(max_examples=150)
@given(data=st.data())
def test_no_damage_is_a_bug(tmp_path_factory: pytest.TempPathFactory, reader: str, data: st.DataObject) -> None:
    """A file is cut, or bytes in it change: the reader returns the content or refuses it in one line."""
    path = tmp_path_factory.getbasetemp() / f"{reader}.npz"
    compression = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    body = bytearray(archive(path, members_of(BODIES[reader]), compression).read_bytes())
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=4)):
        body[at] = byte
    path.write_bytes(body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body)
    with read_or_refused(path):
        READERS[reader](path)


@settings(max_examples=200)
@given(
    st.sampled_from(sorted(BODIES["inputs"])),
    st.sampled_from(["<f4", "<i8", "<u8", "?", "S3", "<U3", "<c8", "V4", "<M8[s]", ">i4", "<f2"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 2**32),
)
@example("format", "S3", [2], 0)
@example("shape", "<u8", [2], 2**32)
def test_a_matrix_with_an_array_of_another_kind(
    tmp_path_factory: pytest.TempPathFactory, name: str, dtype: str, shape: list[int], seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "kind.npz"
    body = np.random.default_rng(seed).bytes(math.prod(shape) * np.dtype(dtype).itemsize)
    archive(path, members_of(BODIES["inputs"] | {name: np.frombuffer(body, dtype).reshape(shape)}))
    for read in (lambda: open_inputs(path, 6), lambda: import_model(path)):
        with read_or_refused(path):
            read()


# -- files that we replace ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"mine", b"PK\x03\x04mine", b"PK\x05\x06" + bytes(18), npy(np.ones(3))])
def test_nothing_but_ours_is_replaced_however_it_looks(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(body)
    one_line(lambda: check_output(path), str(path), "fsd did not make it")
    one_line(lambda: partition(MODEL, 2, "block").save(path), str(path), "is not replaced")
    assert path.read_bytes() == body


def test_what_we_wrote_is_read_and_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        write_output(tmp_path / "o.npz", SPARSE)
    made = open_inputs(tmp_path / "o.npz", 6)
    np.testing.assert_array_equal(made.toarray(), SPARSE.toarray())


# -- models ---------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(data=st.data())
def test_no_damage_to_a_model_is_a_bug(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    save(MODEL, folder)
    file = data.draw(st.sampled_from(sorted(folder.iterdir())))
    body = bytearray(file.read_bytes())
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=3)):
        body[at] = byte
    file.write_bytes(body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body)
    with read_or_refused(folder):
        assert load(folder).digest == MODEL.digest


@pytest.mark.parametrize(
    "change",
    [
        {"clip": 10**400},
        {"clip": True},
        {"activation": ["relu"]},
        {"challenge": 1},
        {"file": "\ud800"},
        {"file": "a\0b"},
        {"file": ".."},
        {"shape": [5, 10**30]},
        {"shape": [True, 6]},
        {"kind": "csr"},
        {"checksum": None},
    ],
)
def test_a_manifest_with_an_odd_value(tmp_path: Path, change: dict[str, Any]) -> None:
    save(Model([Layer(np.ones((5, 6), np.float32), 0, "relu", None, False)]), tmp_path / "m")
    path = tmp_path / "m" / "model.json"
    content = json.loads(path.read_text())
    content["layers"][0] |= change
    path.write_text(json.dumps(content))
    one_line(lambda: open_model(tmp_path / "m"), str(tmp_path / "m"))


# -- byte-order marks ---------------------------------------------------------------------------------------------------------------

LINES = "1\t3\t1\n1\t1\t0.5\n2\t2\t0.5\n"


def test_text_may_begin_with_the_mark_of_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some editors write a byte-order mark."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        Path(name).write_bytes(codecs.BOM_UTF8 + text.encode())
        return Path(name)

    for text in (LINES, LINES.replace("0.5", "1")):  # both parsers
        table = read_table(write("x.tsv", text), 2, 3)
        assert (table.rows.tolist(), table.columns.tolist()) == ([0, 0, 1], [2, 0, 1])
    assert read_truth(write("t.tsv", "2\n1\n"), 2).tolist() == [1, 2]
    save(MODEL, "m")
    write("m/model.json", Path("m/model.json").read_text())
    assert load("m").digest == MODEL.digest
    Path("p").mkdir()
    write("p/conn.0", "\n".join(f"{row} 0 1" for row in range(6)))
    assert Partition.load("p", MODEL).workers == 2


@pytest.mark.parametrize("coding", ["utf-16", "utf-32"])
def test_text_in_another_coding_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coding: str) -> None:
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        Path(name).write_bytes(text.encode(coding))
        return Path(name)

    one_line(lambda: read_table(write("x.tsv", LINES), 2, 3), "x.tsv")
    one_line(lambda: read_truth(write("t.tsv", "1\n2\n"), 2), "t.tsv")
    one_line(lambda: config.load(config=write("fsd.toml", "workers = 3\n"), environ={}), "fsd.toml")
    one_line(lambda: cost.load(str(write("./mine.toml", "a = 1\n"))), "mine.toml")
    assert main(["bill", "--tariff", "local", "--usage", str(write("u.json", "{}"))]) == 2
    one_line(lambda: read_record(write("r.json", "{}")), "r.json")
    Path("p").mkdir()
    write("p/conn.0", "0 0 1\n")
    one_line(lambda: Partition.load("p", MODEL), "conn.0")


def test_a_table_whose_compression_is_damaged(tmp_path: Path) -> None:
    for name in ("x.tsv.gz", "x.tsv.xz"):
        (tmp_path / name).write_bytes(bz2.compress(LINES.encode()))
        one_line(lambda path=tmp_path / name: read_table(path, 2, 3), name)
