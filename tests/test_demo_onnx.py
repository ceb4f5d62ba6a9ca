"""``fsd demo --onnx``, with what it does where something is missing. `test_onnx_packages.py` downloads trained networks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fsd_core.cli.main import main


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["demo", "--onnx"]) == 2
    assert "the package onnx is not installed: expected the extra onnx: pip install 'fsd-inference[onnx]'" in " ".join(
        capfd.readouterr().err.split()
    )
    assert main(["demo", "--onnx", "--radixnet"]) == 2


def test_without_a_network_it_runs_a_generated_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fsd.toml").write_text(f"[local]\nroot = {json.dumps(str(tmp_path / 'root'))}\n")
    assert main(["demo", "--onnx", "--workers", "2", "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert "The trained network cannot be downloaded, a generated one takes its place" in err
    assert (found["source"], found["differs"]["differing"], found["parallel"]["pipeline"]) == ("a generated network", 0, 2)
    assert found["meter"]["payload_bytes_sent"] > 0
    costs = {each["provider"]: each for each in found["costs"]}  # of providers of other packages too, which may bill nothing
    assert all(costs[name]["usd"] > 0 and costs[name]["workers"] == 2 for name in ("aws", "gcp", "azure"))
