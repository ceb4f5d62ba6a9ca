"""The hypergraph partitioner: few rows, even work, equal answers for equal arguments, and blocks where the solver fails."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsd_core.model import Csr, Model, radixnet
from fsd_core.partition import ExchangePlan, _mtkahypar, partition
from fsd_core.partition.balance import contiguous, deal, limit, repair
from fsd_core.partition.hypergraph import hypergraph
from fsd_core.partition.rows import work
from fsd_core.partition.solver import Hypergraph, Solver, Stopped
from partition_models import layer, models, sparse

needs_solver = pytest.mark.skipif(
    importlib.util.find_spec("mtkahypar") is None and os.environ.get("CI") != "true", reason="mtkahypar is not installed (extra: partition)"
)


def _moved(model: Model, workers: int, method: str, seed: int = 0) -> int:
    return int(ExchangePlan(model, partition(model, workers, method, seed)).figures()["rows_moved"])


@needs_solver
@pytest.mark.parametrize(("workers", "most"), [(4, 7_000), (8, 9_000), (16, 12_000)])
def test_radixnet_moves_few_rows_evenly(workers: int, most: int) -> None:
    model = radixnet(1024, 12)
    figures = ExchangePlan(model, partition(model, workers)).figures()
    assert figures["rows_moved"] <= most  # random moves 33,800, 78,000 and 149,000
    assert figures["imbalance"] <= 1.03


@needs_solver
def test_a_seed_gives_one_partition() -> None:
    model = radixnet(1024, 3)
    digests = [partition(model, 42, seed=seed).digest for seed in (5, 5, 6)]  # each in a new process
    assert digests[0] == digests[1] != digests[2]


@needs_solver
@pytest.mark.parametrize(("density", "workers"), [(0.1, 2), (0.1, 20), (0.01, 8)])
def test_pruned_networks_are_no_worse_than_without(density: float, workers: int) -> None:
    model = sparse([200, 300, 250, 200], density)
    figures = ExchangePlan(model, partition(model, workers)).figures()
    assert figures["rows_moved"] <= min(_moved(model, workers, "block"), _moved(model, workers, "random"))
    assert figures["imbalance"] <= 1.13


@needs_solver
def test_what_a_permutation_hides_is_found_again() -> None:
    size, order = 400, np.random.default_rng(0).permutation(400)
    band = np.abs(np.arange(size)[:, None] - np.arange(size)) <= 2
    model = Model(tuple(layer(band[order][:, order]) for _ in range(3)))
    assert _moved(model, 4, "hypergraph") <= 40  # 2 rows each way at each of 3 borders in each of 2 exchanges: 24
    assert _moved(model, 4, "block") > 1500


@needs_solver
@settings(max_examples=20)
@given(models(), st.integers(1, 9))
def test_any_model_gets_a_valid_even_partition(model: Model, workers: int) -> None:
    workers = min(workers, max(layer.outputs for layer in model.layers))
    steps: list[tuple[int, int]] = []
    made = hypergraph(model, workers, progress=lambda done, of: steps.append((done, of))).check(model)
    moved, by_blocks = (ExchangePlan(model, each).figures()["rows_moved"] for each in (made, partition(model, workers, "block")))
    assert moved <= by_blocks
    if moved < by_blocks:
        for k, each in enumerate(model.layers):
            load = np.bincount(made.owners[k + 1], work(each), workers)
            assert load.max() <= max(limit(work(each), workers), np.bincount(contiguous(work(each), workers), work(each)).max())
    assert steps == ([] if workers == 1 else [(k, len(model.layers)) for k in range(1, len(model.layers) + 1)])


weights = st.lists(st.integers(0, 50), min_size=1, max_size=40).map(lambda w: np.array(w, np.int64))


@given(weights, st.integers(1, 9))
def test_limit_can_be_met_and_is_tight(weights: np.ndarray, workers: int) -> None:
    dealt = np.bincount(deal(weights, workers), weights, workers).max()
    best = max(weights.sum() / workers, weights.max())
    assert dealt <= weights.sum() / workers + weights.max() * (1 - 1 / workers) + 1e-9
    if weights.max():
        assert best - 1 <= limit(weights, workers) <= max(dealt, weights.sum() / workers * 1.125)


@given(models(), st.integers(1, 9), st.integers(0, 100))
def test_repair_makes_any_owners_even(model: Model, workers: int, seed: int) -> None:
    for each in model.layers:
        if isinstance(each.weights, Csr):
            random, most = np.random.default_rng(seed), limit(work(each), workers)
            owner = random.integers(random.integers(1, workers + 1), size=each.outputs, dtype=np.int32)
            before = owner.copy()
            for sources in (None, random.integers(workers, size=each.inputs, dtype=np.int32)):
                even = repair(owner, each.weights, sources, most, workers)
                assert np.bincount(even, work(each), workers).max() <= most
                assert even.min() >= 0
                assert even.max() < workers
            assert (owner == before).all()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import time; time.sleep(600)", "took over"),
        ("import sys; sys.exit(3)", "ended without an answer|Broken pipe"),
        ("import os; os.kill(os.getpid(), 11)", "ended without an answer|Broken pipe"),
        ("print('something longer than a head')", "a message begins with|Broken pipe"),
    ],
)
def test_a_solver_that_fails_leaves_blocks_and_one_warning(program: str, message: str, caplog: pytest.LogCaptureFixture) -> None:
    import re

    model = sparse([40, 40, 40], 0.1)
    made = hypergraph(model, 4, solver=lambda: Solver([sys.executable, "-c", program], time_limit=2 if message == "took over" else 60))
    assert made.digest == partition(model, 4, "block").digest
    [record] = caplog.records
    assert re.search(message, record.getMessage())
    assert "layers 1 to 2 are partitioned in blocks" in record.getMessage()


def _answering(tmp_path: Path, answer: str) -> Solver:
    program = tmp_path / "solver.py"
    program.write_text(
        "import sys\nimport numpy as np\nfrom fsd_core.partition._mtkahypar import read, write\n"
        "for turn in range(100):\n"
        "    ask = read(sys.stdin.buffer)\n"
        "    if ask is None: break\n"
        "    vertices, workers = len(ask['weights']), int(ask['workers'])\n"
        f"    write(sys.stdout.buffer, {answer})\n"
    )
    return Solver([sys.executable, str(program)])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("error='ValueError: no'", "ValueError: no"),
        ("blocks=np.zeros(vertices + 1, np.int32)", "lacks the block of a vertex"),
        ("blocks=np.full(vertices, workers, np.int32)", "lacks the block of a vertex"),
    ],
)
def test_a_wrong_answer_is_not_taken(tmp_path: Path, answer: str, message: str, caplog: pytest.LogCaptureFixture) -> None:
    model = sparse([40, 40, 40], 0.1)
    made = hypergraph(model, 4, solver=lambda: _answering(tmp_path, answer))
    assert made.digest == partition(model, 4, "block").digest
    assert [message in record.getMessage() for record in caplog.records] == [True]


def test_layers_that_were_solved_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = np.kron(np.eye(4, dtype=np.bool_), np.ones((8, 8), np.bool_))
    order = np.random.default_rng(0).permutation(32)
    model = Model((layer(mask), layer(mask[order]), layer(mask[:, order])))  # block would move rows before layers 2 and 3
    answer = "**({'blocks': np.zeros(vertices, np.int32)} if turn < 1 else {'error': 'tired'})"  # each of two processes answers once
    steps: list[tuple[int, int]] = []
    made = hypergraph(model, 4, progress=lambda *step: steps.append(step), solver=lambda: _answering(tmp_path, answer))
    assert "mtkahypar: tired: layers 3 to 3 are partitioned in blocks" in caplog.text
    assert made.label == "hypergraph, completed by block"
    assert all(np.bincount(owner, minlength=4).max() <= 9 for owner in made.owners[1:3])
    assert steps[-1] == (3, 3)


def test_a_solver_that_fails_while_layers_are_solved_again_leaves_the_first_owners(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = sparse([40, 40, 40], 0.1)
    answer = "**({'blocks': np.arange(vertices, dtype=np.int32) % workers} if turn < 1 else {'error': 'tired'})"
    made = hypergraph(model, 4, solver=lambda: _answering(tmp_path, answer))
    assert made.label == "hypergraph, unfinished"
    assert "mtkahypar: tired: the last improvements are left out" in caplog.text


@needs_solver
def test_two_processes_give_what_they_give_in_turns() -> None:
    """The same seed gives the same partition, whatever the number of cores and however the two processes interleave."""

    class Slow(Solver):
        def blocks(self, graph: Hypergraph, workers: int, epsilon: float, seed: int) -> np.ndarray:
            with turn:
                return super().blocks(graph, workers, epsilon, seed)

    turn = threading.Lock()
    command = [sys.executable, "-P", _mtkahypar.__file__]
    model = radixnet(1024, 9)
    assert hypergraph(model, 8, solver=lambda: Slow(command)).digest == hypergraph(model, 8).digest


def test_an_interrupt_ends_both_processes_at_once(tmp_path: Path) -> None:
    program = "import os, sys, time; open(os.path.join(sys.argv[1], str(os.getpid())), 'w'); time.sleep(600)"

    class Kept(Solver):
        def __enter__(self) -> Solver:
            made.append(self)
            return self

    def interrupt() -> None:
        while not list(tmp_path.iterdir()):
            time.sleep(0.01)
        assert main.ident is not None
        signal.pthread_kill(main.ident, signal.SIGINT)  # in this thread it would not wake the one that waits

    main = threading.main_thread()
    made: list[Solver] = []
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        hypergraph(sparse([40, 40, 40], 0.1), 4, solver=lambda: Kept([sys.executable, "-c", program, str(tmp_path)]))
    [process] = [int(path.name) for path in tmp_path.iterdir()]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    graph = Hypergraph(*(np.zeros(1, np.int64) for _ in range(4)))
    for solver in made:
        with pytest.raises(Stopped, match=r"has ended|closed"):
            solver.blocks(graph, 2, 0.1, 0)


def test_without_the_library_blocks_are_taken_with_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "mtkahypar", None)
    model = sparse([40, 40, 40], 0.1)
    assert partition(model, 4).digest == partition(model, 4, "block").digest
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["mtkahypar is not installed (extra"]
