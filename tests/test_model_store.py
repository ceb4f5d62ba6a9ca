"""Models on disk, and our reader of the safetensors format compared with the library."""

import json
import re
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fsd_core.errors import InputError
from fsd_core.model import Csr, Layer, Model, load, open_model, radixnet, save, store, tensors

DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint64, np.uint32, np.uint16, np.uint8, np.bool_]
ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))),
    max_size=5,
)
METADATA = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@given(ARRAYS, METADATA)
@settings(max_examples=60)
def test_our_pack_is_read_by_the_library_and_by_us(arrays, metadata):
    body = b"".join(tensors.pack(arrays, metadata))
    theirs = safetensors.numpy.load(body)
    infos, read, _ = tensors.header(body)
    assert read == metadata
    assert theirs.keys() == arrays.keys() == infos.keys()
    for name, array in arrays.items():
        assert same(theirs[name], array)
        assert same(tensors.view(body, infos[name]), array)


@given(ARRAYS, METADATA)
@settings(max_examples=60)
def test_we_read_what_the_library_packs(arrays, metadata):
    body = safetensors.numpy.save(arrays, metadata or None)
    infos, read, offset = tensors.header(body[: tensors.header_bytes(body)])
    assert read == metadata
    assert offset == tensors.header_bytes(body)
    assert infos.keys() == arrays.keys()
    assert all(same(tensors.view(memoryview(body), infos[name]), array) for name, array in arrays.items())


def test_views_and_packs_do_not_copy():
    array = np.arange(6, dtype=np.float32)
    head, body = tensors.pack({"a": array})
    assert np.shares_memory(np.frombuffer(body, np.float32), array)
    joined = bytearray(head + bytes(body))
    seen = tensors.view(joined, tensors.header(joined)[0]["a"])
    joined[-4:] = struct.pack("<f", 9)
    assert seen.tolist() == [0, 1, 2, 3, 4, 9]
    assert seen.flags.aligned
    with pytest.raises(InputError, match="complex128"):
        tensors.pack({"a": np.ones(1, complex)})


def framed(entries):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def entry(dtype="F32", shape=(2,), span=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "0 bytes"),
        (b"\xff" * 8, "header of 18446744073709551615 bytes"),
        (framed({})[:-1], "truncated"),
        (framed(b"[]"), "is a list: expected a JSON object"),
        (framed(b"{]"), "expected JSON"),
        (framed(b"[" * 100_000), "expected JSON"),
        (framed(b"\xff\xfe"), "expected JSON"),
        (framed({"__metadata__": {"a": 1}}), "metadata"),
        (framed({"a": 3}), "'a': its entry has type int: expected a JSON object"),
        (framed({"a": entry("BF16")}), "dtype 'BF16'"),
        (framed({"a": entry(shape=(-2,))}), "expected lists of whole numbers from 0"),
        (framed({"a": entry(shape=(True, 2))}), "expected lists of whole numbers from 0"),
        (framed({"a": entry(span=(0, 8, 9))}), "expected lists of whole numbers from 0"),
        (framed({"a": entry(span=(8, 0))}), "-8 bytes"),
        (framed({"a": entry(shape=(2**40, 2**40))}), "for its dtype and shape"),
        (framed({"a": entry(span=(4, 12))}), "starts at byte"),
        (framed({"a": entry(), "b": entry()}), "starts at byte"),
    ],
)
def test_a_wrong_header_is_refused(head, message):
    with pytest.raises(InputError, match=re.escape(message)):
        tensors.header(head)


@given(st.binary(max_size=64), st.integers(0, 200))
def test_any_bytes_are_read_or_refused(noise, cut):
    good = b"".join(tensors.pack({"a": np.arange(3), "b": np.ones((2, 2), np.float32)}))
    for body in (noise, len(noise).to_bytes(8, "little") + noise, good[:cut], good[:cut] + noise):
        try:
            infos, _, _ = tensors.header(body)
            for info in infos.values():
                tensors.view(body, info)
        except InputError:
            pass


# -- folders ------------------------------------------------------------------------------------------------------------------


def mixed():
    random = np.random.default_rng(3)
    empty = Csr(np.zeros(5, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), (4, 6))
    return Model(
        (
            Layer(empty, np.ones(4, np.float32), "sigmoid", None, False),
            Layer(random.random((3, 4), np.float32), np.asarray(0.5), "relu", 2.5, True),
            Layer(
                Csr.build(np.array([0, 1]), np.array([2, 0]), np.array([1.5, -1]), (2, 3)), np.zeros(2, np.float32), "softmax", None, False
            ),
        ),
        "mixed",
    )


@pytest.mark.parametrize("make", [mixed, lambda: radixnet(1024, 8, weights="normal")])
def test_save_and_load(tmp_path, make):
    model = make()
    save(model, tmp_path / "deep" / "m")
    read = load(tmp_path / "deep" / "m")
    assert (read.name, read.digest) == (model.name, model.digest)
    assert open_model(str(tmp_path / "deep" / "m")).digest == model.digest
    for before, after in zip(model.layers, read.layers, strict=True):
        assert (before.activation, before.clip, before.challenge) == (after.activation, after.clip, after.challenge)
        assert all(same(before.arrays[name], after.arrays[name]) for name in before.arrays)
        assert not any(array.flags.owndata or array.flags.writeable for array in after.arrays.values())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["m"]


def test_a_plan_trusts_the_checksums_of_a_model_and_a_run_does_not(tmp_path):
    model = radixnet(1024, 2)
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m", checksums=False)
    assert model.digest in loaded.recipe
    assert loaded.digest == model.digest
    (file,) = (tmp_path / "m").glob("*.safetensors")
    data = bytearray(file.read_bytes())
    place = data.index(np.full(8, 1 / 16, np.float32).tobytes())
    data[place : place + 4] = np.float32(1 / 8).tobytes()
    file.write_bytes(data)
    assert load(tmp_path / "m", checksums=False).layers[0].weights.values.max() == np.float32(1 / 8)
    with pytest.raises(InputError, match="corrupt: its checksum is"):
        load(tmp_path / "m")


def test_layers_are_spread_over_files_of_bounded_size(tmp_path, monkeypatch):
    model = radixnet(1024, 5)
    monkeypatch.setattr(store, "_FILE_BYTES", 600_000)
    save(model, tmp_path / "m")
    files = sorted((tmp_path / "m").glob("*.safetensors"))
    assert len(files) == 3
    assert files[0].stat().st_mode == (tmp_path / "m" / "model.json").stat().st_mode
    assert load(tmp_path / "m").digest == model.digest


def test_save_replaces_only_what_it_made(tmp_path):
    first, second = radixnet(1024, 1), mixed()
    save(first, tmp_path / "m")
    held = load(tmp_path / "m")
    save(held, tmp_path / "m")  # replaces the files that its arrays are mapped from
    (tmp_path / "m" / "weights-left-by-a-save-that-was-killed.new").touch()
    save(second, tmp_path / "m")
    assert load(tmp_path / "m").digest == second.digest
    assert len(list((tmp_path / "m").iterdir())) == 2
    assert Model(tuple(Layer(x.weights, x.bias, x.activation, x.clip, x.challenge) for x in held.layers)).digest == first.digest
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.json").write_text('{"format": "something else"}')
    for name in ("file", "folder", "other"):
        with pytest.raises(
            InputError, match=rf"{name}: exists and is not a model that fsd made, so it is not replaced: expected a new path"
        ):
            save(second, tmp_path / name)
    with pytest.raises(InputError, match="cannot be written"):
        save(second, tmp_path / "file" / "m")


def test_a_save_that_fails_leaves_the_old_model(tmp_path, monkeypatch):
    save(radixnet(1024, 1), tmp_path / "m")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    for name in ("m", "new"):
        with pytest.raises(InputError, match=f"{name}: the model cannot be written: .*No space left"):
            save(mixed(), tmp_path / name)
    assert load(tmp_path / "m").digest == radixnet(1024, 1).digest
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def manifest(change):
    def apply(folder, _):
        path = folder / "model.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def edit(change):
    def apply(_, file):
        body = bytearray(file.read_bytes())
        change(body)
        file.write_bytes(body)

    return apply


def flip(body):
    body[tensors.header(body)[0]["2.values"].start] ^= 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edit(lambda body: body.clear()), "safetensors: cannot be read"),
        (edit(lambda body: body.__delitem__(slice(100, None))), "safetensors: truncated safetensors header"),
        (edit(lambda body: body.__delitem__(-1)), "safetensors: truncated or too long"),
        (edit(lambda body: body.append(0)), "safetensors: truncated or too long"),
        (edit(flip), "safetensors: layer 2: corrupt: its checksum"),
        (edit(lambda body: body.__setitem__(20, 0)), "safetensors: .*JSON"),
        (lambda _, file: file.unlink(), "safetensors: cannot be read: .*No such file"),
        (lambda folder, _: (folder / "model.json").write_text("{"), "model.json: cannot be read as JSON"),
        (lambda folder, _: (folder / "model.json").write_text("[]"), "model.json: is a list: expected a JSON object"),
        (lambda folder, _: (folder / "model.json").unlink(), "is not a model folder"),
        (manifest(lambda content: content.update(version=2)), "version = 2: expected 1"),
        (manifest(lambda content: content.update(layers=5)), "layers = 5: expected a list"),
        (manifest(lambda content: content.update(layers=[])), "at least one layer"),
        (manifest(lambda content: content.update(layers=[1])), r"layers = \[1\]: expected a list, each item a table"),
        (manifest(lambda content: content["layers"].pop()), "digest = .*: expected"),
        (manifest(lambda content: content["layers"].reverse()), "layer 1: (shape|corrupt)"),
        (manifest(lambda content: content["layers"][0].update(file="../x")), r"layer 1: file = '../x': expected the name of a file"),
        (manifest(lambda content: content["layers"][0].update(kind="coo")), "layer 1: kind = 'coo': expected one of csr, dense"),
        (manifest(lambda content: content["layers"][0].update(kind="dense")), "layer 1: array 1.weights is missing"),
        (manifest(lambda content: content["layers"][0].update(shape=[1024])), r"layer 1: shape = \[1024\]: expected \[outputs, inputs\]"),
        (manifest(lambda content: content["layers"][0].update(shape=[1024, 7])), "layer 1: csr column index"),
        (manifest(lambda content: content["layers"][0].update(clip="32")), "layer 1: clip = '32': expected a number, or null"),
        (manifest(lambda content: content["layers"][0].update(clip=31)), "layer 1: corrupt"),
        (
            manifest(lambda content: content["layers"][0].update(activation="gelu")),
            "layer 1: activation = 'gelu': expected one of identity",
        ),
        (manifest(lambda content: content["layers"][0].update(challenge=1)), "layer 1: challenge = 1: expected true or false"),
        (manifest(lambda content: content["layers"][0].update(activatoin="relu")), "activatoin: unknown key; did you mean activation"),
        (manifest(lambda content: content["layers"][0].pop("checksum")), "layer 1: checksum: is missing"),
        (manifest(lambda content: content.update(digets="")), r"model\.json: digets: unknown key; did you mean digest"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    folder = tmp_path / "m"
    save(radixnet(1024, 2), folder)
    damage(folder, next(folder.glob("*.safetensors")))
    with pytest.raises(InputError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
