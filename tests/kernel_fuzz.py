"""Calls the compiled kernel with random and wrong arguments: python tests/kernel_fuzz.py EXTENSION CALLS SEED.

`test_kernel_sanitized.py` runs it with an extension that stops at the first access outside a buffer and the first undefined operation.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from typing import Any

import numpy as np

INT32 = [-(2**31), -1, 0, 1, 2, 5, 31, 32, 2**31 - 1]
RULES = [0, 1, 3, 5, 7, -1, 255]


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("fsd_core.kernel._kernel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["fsd_core.kernel._kernel"] = module
    return module


class Fuzz:
    """Valid arguments of each function, of which ``spoil`` replaces one."""

    def __init__(self, lib: Any, seed: int) -> None:
        self.lib, self.rng = lib, np.random.default_rng(seed)
        self.counts: Counter[str] = Counter()

    def floats(self, size: int) -> np.ndarray:
        some = self.rng.standard_normal(size).astype(np.float32)
        some[self.rng.random(size) < 0.1] = self.rng.choice(np.array([np.inf, -np.inf, np.nan, -0.0, 3e38, 1e-45], np.float32))
        return some

    def spoiled(self, arguments: list[Any]) -> list[Any]:
        at = int(self.rng.integers(len(arguments)))
        old = arguments[at]
        if isinstance(old, np.ndarray) and self.rng.random() < 0.5 and old.dtype.kind == "i" and old.size:
            old = old.copy()
            old[self.rng.integers(old.size)] = self.rng.choice(np.array(INT32))
            arguments[at] = old
        elif isinstance(old, np.ndarray):
            arguments[at] = np.zeros(max(0, old.size + int(self.rng.choice([-32, -1, 1, 32, -old.size]))), old.dtype)
        elif isinstance(old, int):
            arguments[at] = int(self.rng.choice([*INT32, old + 1, old - 1])) if self.rng.random() < 0.9 else old
            arguments[at] = max(-(2**31), min(2**31 - 1, arguments[at]))
        return arguments

    def call(self, name: str, arguments: list[Any], wrong: bool) -> Any:
        try:
            found = getattr(self.lib, name)(*(self.spoiled(arguments) if wrong else arguments))
        except (ValueError, MemoryError, TypeError):
            assert wrong, (name, arguments)
            self.counts[f"{name} refused"] += 1
            return None
        self.counts[f"{name} done"] += 1
        return found

    def plan(self, columns: int, wrong: bool) -> tuple[Any, int]:
        rows = int(self.rng.integers(0, 40))
        longest = 90 if self.rng.random() < 0.1 else 9  # more than GATHERED inputs take another way
        patterns = [self.rng.integers(0, columns, self.rng.integers(0, longest)) if columns else np.zeros(0) for _ in range(3)]
        reads = [patterns[self.rng.integers(3)] for _ in range(rows)]
        indptr = np.concatenate([[0], np.cumsum([len(each) for each in reads])]).astype(np.int64)
        indices = np.concatenate([*reads, np.zeros(0)]).astype(np.int32)
        arguments = [rows, columns, indptr, indices, self.floats(len(indices)), self.floats(rows), int(self.rng.choice(RULES)), 1.5]
        return self.call("plan", arguments, wrong), rows

    def forward(self, wrong: bool) -> None:
        columns, tiles = int(self.rng.integers(0, 20)), int(self.rng.integers(0, 5))
        plans, rows = [], columns
        for _ in range(int(self.rng.integers(1, 4))):
            plan, rows = self.plan(rows, False)
            plans.append(plan)
        start = self.floats(tiles * rows * 32) if len(plans) == 1 and self.rng.random() < 0.5 else None
        y, live = np.empty(tiles * rows * 32, np.float32), np.empty(tiles * 32, np.uint8)
        number = int(self.rng.choice([number for _, number in self.lib.sets()]))
        x = self.floats(tiles * columns * 32)
        self.call("forward", [number, tuple(plans), columns, tiles, x, start, y, live, 0, tiles], wrong)

    def finish(self, wrong: bool) -> None:
        rows, tiles = int(self.rng.integers(0, 20)), int(self.rng.integers(0, 5))
        z, live = self.floats(tiles * rows * 32), np.empty(tiles * 32, np.uint8)
        self.call("finish", [rows, tiles, z, self.floats(rows), int(self.rng.choice(RULES)), 1.5, live], wrong)

    def move(self, wrong: bool) -> None:
        rng = self.rng
        rows, width, tiles, into = int(rng.integers(0, 9)), int(rng.integers(1, 40)), int(rng.integers(1, 4)), int(rng.integers(2, 40))
        lanes = rng.integers(0, width * tiles, rng.integers(0, 70)).astype(np.int32)
        picked = rng.integers(0, rows, rng.integers(0, 9)).astype(np.int32) if rows and rng.random() < 0.5 else None
        taken, before, after = rows if picked is None else len(picked), int(rng.integers(0, 3)), int(rng.integers(0, 3))
        height = before + taken + after
        target = np.empty(max(1, -(-len(lanes) // (into - 1))) * height * into, np.float32)
        self.call("move", [rows, width, self.floats(rows * width * tiles), lanes, picked, height, into, target, before], wrong)


def main() -> None:
    fuzz = Fuzz(load(sys.argv[1]), int(sys.argv[3]))
    for number in range(int(sys.argv[2])):
        wrong = number % 2 == 1
        fuzz.plan(int(fuzz.rng.integers(0, 20)), wrong)
        fuzz.forward(wrong)
        fuzz.finish(wrong)
        fuzz.move(wrong)
    print(dict(sorted(fuzz.counts.items())))


if __name__ == "__main__":
    main()
