"""Loads the official N = 1024 data of the Graph Challenge from the folder that a benchmark is given."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import attrs
from scipy.sparse import csr_matrix

from fsd_core.common.home import home_folder
from fsd_core.model import Model
from fsd_core.model.inputs import open_inputs
from fsd_core.model.sources import open_model

FILES = ("neuron1024.tar.xz", "sparse-images-1024-first10000.tsv.xz", "neuron1024-l120-categories-first10000.tsv")


@attrs.frozen
class Challenge:
    """The official model with its images and answer."""

    model: Model
    images: csr_matrix  # (samples, 1024) float32
    truth: set[int]  # the samples (0-based) whose final row is not all zero
    published: Path | None  # the folder of the published partition, if the data has it


def load(data: Path | None) -> Challenge:
    """The data in folder ``data``. If a file is missing, print which, and exit with code 0."""
    missing = [name for name in FILES if data is None or not (data / name).exists()]
    if data is None or missing:
        print(f"skipped: expected --data FOLDER with {', '.join(FILES)}" + (f"; {data} lacks {', '.join(missing)}" if data else ""))
        sys.exit(0)
    cache = home_folder() / "graphchallenge"
    published = data / "paper-partition-1024-p8.tar.xz"
    for archive, folder in ((data / FILES[0], "neuron1024"), (published, "partition-1024-p8")):
        if archive.exists() and not (cache / folder).exists():
            with tarfile.open(archive) as tar:
                tar.extractall(cache, filter="data")
    truth = {int(line) - 1 for line in (data / FILES[2]).read_text().split()}
    images = open_inputs(str(data / FILES[1]), 1024)
    model = open_model(str(cache / "neuron1024"))
    return Challenge(model, images, truth, cache / "partition-1024-p8" if published.exists() else None)
