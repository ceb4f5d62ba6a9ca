"""The network of the demo: it is sparse and accurate, and the demo shows that."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sklearn")

from fsd_core.cli import main
from fsd_core.demo import DENSITY, accuracy, digits, network
from fsd_core.model import radixnet
from fsd_core.model.serial import serial


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(home):
    return network(home)


def test_halves_are_apart_and_whole():
    data = digits()
    assert len(data.seen) + len(data.held) == 1797
    assert abs(len(data.seen) - len(data.held)) <= 1
    assert data.held.dtype == np.float32
    assert data.held.min() == 0
    assert data.held.max() == 1
    assert not {row.tobytes() for row in data.seen} & {row.tobytes() for row in data.held}


def test_sparse_and_right(trained):
    model, _ = trained
    data = digits()
    assert len(model.layers) == 5
    assert all(layer.nonzeros <= DENSITY * layer.inputs * layer.outputs for layer in model.layers)
    assert accuracy(serial(model, data.held), data.held_labels) >= 0.94


def test_kept_for_the_next_time(trained, home):
    model, folder = trained
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again, same = network(home, progress=lambda done, total: pytest.fail("trained again"))
    assert (again.digest, same) == (model.digest, folder)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize("what", ["model.json", "weights-*"])
def test_a_damaged_copy_is_made_anew(tmp_path, monkeypatch, caplog, what):
    small = radixnet(1024, 2)
    monkeypatch.setattr("fsd_core.demo.training.train", lambda data, progress: small)
    _, folder = network(tmp_path)
    [file] = folder.glob(what)
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    again, same = network(tmp_path)
    assert (again.digest, same) == (small.digest, folder)
    assert "trained again" in caplog.text
    caplog.clear()
    assert network(tmp_path)[0].digest == small.digest
    assert not caplog.records


def test_demo_shows_it(trained, home, monkeypatch, capfd):
    monkeypatch.setenv("FSD_HOME", str(home))
    assert main(["demo", "--workers", "3"]) == 0
    out, _ = capfd.readouterr()
    for words in ("accuracy", "distributed = serial", "yes", "3 on local", "Time", "Sent and stored", "Commands to try next"):
        assert words in out


def test_demo_json(trained, home, monkeypatch, capfd):
    monkeypatch.setenv("FSD_HOME", str(home))
    assert main(["demo", "--workers", "2", "--json"]) == 0
    answer = json.loads(capfd.readouterr()[0])
    assert answer["accuracy"] >= 0.94
    assert answer["density"] <= DENSITY
    assert answer["max_difference"] < 1e-4
    assert (answer["samples"], answer["workers"]) == (899, 2)


def test_demo_radixnet(home, monkeypatch, capfd):
    monkeypatch.setenv("FSD_HOME", str(home))
    assert main(["demo", "--radixnet", "--workers", "2"]) == 0
    out, _ = capfd.readouterr()
    assert "120 layers" in out
    assert "yes" in out
