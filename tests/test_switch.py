"""Another cloud is one word of the configuration file: the same run on each gives the same bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import scipy.sparse

from fsd_conformance import emulators
from fsd_conformance.emulators import azurite
from fsd_core.cli import main

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(300)]
FILE = """
provider = "{provider}"
app = "switch"
{split}
batch_size = 20
channel = "{channel}"
partition = "block"
seed = 7
output = "out.npz"

[aws]
lease_s = 3

[gcp]
lease_s = 10

[azure]
lease_s = 10
"""


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The emulators of all clouds, as ``fsd emulators up`` starts them: a run with ``--emulator`` uses the one that is up."""
    azure = azurite.install(print).parents[1]  # once for all: it is large
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name in [name for name in os.environ if name.startswith("FSD_") and name != "FSD_PUBSUB_JAR"]:
            patch.delenv(name)
        patch.setenv("FSD_HOME", str(home))
        (home / "emulators").mkdir()
        (home / "emulators" / azure.name).symlink_to(azure)
        for cloud in ("aws", "gcp", "azure"):
            stack.callback(emulators.down, cloud)
            emulators.up(cloud)
        yield


@pytest.mark.parametrize(
    ("channel", "split"),
    [
        ("queue", "data_parallel = 2\npipeline_parallel = 2\ntensor_parallel = 2"),
        ("object", "data_parallel = 2\ntensor_parallel = 2"),
        ("hybrid", "pipeline_parallel = 2\ntensor_parallel = 2"),
    ],
)
@pytest.mark.usefixtures("clouds")
def test_the_provider_is_the_only_change(channel: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {}
    for provider in ("local", "aws", "gcp", "azure"):
        (tmp_path / provider).mkdir()
        monkeypatch.chdir(tmp_path / provider)
        Path("fsd.toml").write_text(FILE.format(provider=provider, channel=channel, split=split))
        emulator = [] if provider == "local" else ["--emulator"]
        assert main(["run", "radixnet:1024:6", "random:60:0.3:1", *emulator]) == 0
        outputs[provider] = scipy.sparse.load_npz("out.npz")
    local = outputs.pop("local")
    assert local.nnz > 0
    for other in outputs.values():
        assert other.shape == local.shape
        for part in ("indptr", "indices", "data"):
            mine, theirs = getattr(local, part), getattr(other, part)
            assert (theirs.dtype, theirs.tobytes()) == (mine.dtype, mine.tobytes())
