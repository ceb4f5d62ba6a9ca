"""The same model, partition and number of workers on several providers and channels, run in turns, so that all share bad moments.

Outputs must agree before anything is compared: bit for bit where the number of workers is the same, for then every sum is made in
the same order; else within `RTOL` and `ATOL`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from fsd_core.client.result import left_out
from fsd_core.common import arguments
from fsd_core.driver import Code
from fsd_core.errors import CheckFailed, FsdError, RunFailed
from fsd_core.report.figures import FIGURES, Figure, Measured

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from fsd_core import Result

__all__ = ["Case", "Cell", "Comparison", "Where", "median", "spread", "take_turns"]

RTOL, ATOL = 1e-3, 1e-4  # of float32 sums whose order differs
CSV_START = ("provider", "emulator", "tariff", "channel", "workers", "runs")


@attrs.frozen
class Case:
    """One way to run the model."""

    provider: str
    channel: str
    workers: int

    def __str__(self) -> str:
        return f"{self.provider}, {self.channel}, {self.workers} worker{'s' if self.workers > 1 else ''}"


@attrs.define
class Cell:
    """A case, its runs in order, and why there are no more of them."""

    case: Case
    runs: list[Measured] = attrs.field(factory=list)
    error: str | None = None
    code: Code = Code.UNKNOWN  # of the error


@attrs.define
class Where:
    """A provider: its emulator's name or address, its tariff's name, and why nothing could run there."""

    emulator: str | None
    tariff: str
    error: str | None = None
    code: Code = Code.UNAVAILABLE  # of the error


@attrs.frozen
class Comparison:
    """What `fsd compare` found. ``about``: the configuration and versions that make it repeatable."""

    about: Mapping[str, str | int | float]
    providers: Mapping[str, Where]
    cells: Sequence[Cell]

    def failures(self) -> list[tuple[Code, str]]:
        """A code and a line for each provider and each case that could not run."""
        found = [(where.code, f"{name}: {where.error}") for name, where in self.providers.items() if where.error]
        alone = (cell for cell in self.cells if cell.error and not self.providers[cell.case.provider].error)
        return found + [(cell.code, f"{cell.case}: {cell.error}") for cell in alone]

    def why(self, cell: Cell) -> str | None:
        """Why a cell has no figures."""
        return None if cell.runs else cell.error or self.providers[cell.case.provider].error or "did not run"

    def left_out(self) -> list[str]:
        """A line for each run of which a rank left no record."""
        runs = [(cell.case, run.record) for cell in self.cells for run in cell.runs]
        return [f"{case}, run {run['run']}: {words}" for case, run in runs if (words := left_out(run.get("missing_ranks", ())))]

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        where = {name: {"emulator": each.emulator, "tariff": each.tariff, "error": each.error} for name, each in self.providers.items()}
        return {"about": dict(self.about), "providers": where, "cells": [self._cell(cell) for cell in self.cells]}

    def _cell(self, cell: Cell) -> dict[str, Any]:
        fields: dict[str, Any] = {"provider": cell.case.provider, "channel": cell.case.channel, "workers": cell.case.workers}
        fields |= {"error": self.why(cell) or cell.error, "runs": [run.record["run"] for run in cell.runs]}
        if cell.runs:
            record, bill = cell.runs[0].record, [run.bill for run in cell.runs]
            fields |= {group: {name: _spread([run.record[group][name] for run in cell.runs]) for name in record[group]} for group in (
                "seconds", "meter", "memory",
            )}  # fmt: skip
            fields["partition"] = record["partition"]
            fields["usd"] = _spread([each.total_usd for each in bill])
            fields["usd_otherwise"] = _spread([each.otherwise_usd for each in bill])
            fields["low_confidence"] = sorted({f"{price.service} {price.sku}" for each in bill for price in each.doubted})
            middle = median(FIGURES[-1], cell).bill
            fields["services"] = {name: sum(line.usd for line in lines) for name, lines in middle.by_service.items()}
        return fields

    def to_csv(self) -> str:
        """A row a case; of each figure the median, lowest and highest. Money is of one run."""
        rows: list[dict[str, Any]] = []
        for cell, found in zip(self.cells, self.to_json()["cells"], strict=True):
            where = self.providers[cell.case.provider]
            row = dict.fromkeys(CSV_START, "") | {key: found[key] for key in ("provider", "channel", "workers")}
            row |= {"emulator": where.emulator or "", "tariff": where.tariff, "runs": len(cell.runs)}
            for group in ("seconds", "meter", "memory"):
                for name, three in found.get(group, {}).items():
                    row |= _columns(name if group != "seconds" else f"seconds_{name}", three)
            for name in ("usd", "usd_otherwise"):
                row |= _columns(name, found[name]) if name in found else {}
            rows.append(row | {"error": found["error"] or ""})
        names = list(dict.fromkeys(name for row in rows for name in row if name != "error"))
        text = io.StringIO()
        table = csv.DictWriter(text, [*names, "error"], restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        return text.getvalue()


def take_turns(
    cases: Sequence[Case],
    repeat: int,
    providers: Mapping[str, Where],
    run: Callable[[Case], Result],
    bill: Callable[[Mapping[str, Any]], Any],
    tell: Callable[[int, int, str], None] | None = None,
) -> list[Cell]:
    """Each case ``repeat`` times, one turn of all cases after the other, and before them a turn that does not count.

    What is done once, making resources and putting weights into the store, belongs to no case: so of each provider and number
    of workers the first case that can runs once unmeasured. A case that fails runs no more; where all of a provider's failed
    then, it cannot start, and ``providers`` says why. ``bill`` makes the bill of a record. Raises `CheckFailed` as soon as two
    outputs differ.
    """
    repeat, tell = arguments.whole("repeat", repeat, 1), arguments.callback("tell", tell) or (lambda done, total, text: None)
    cells = [Cell(case) for case in cases]
    outputs: dict[int, tuple[Case, csr_matrix]] = {}
    warm: set[tuple[str, int]] = set()
    total, done = len({(case.provider, case.workers) for case in cases}) + repeat * len(cells), 0
    for turn in range(repeat + 1):
        for cell in cells:
            where, place = providers[cell.case.provider], (cell.case.provider, cell.case.workers)
            if not turn and place in warm:
                continue
            done = min(done + 1, total)
            if cell.error or where.error:
                continue
            tell(done, total, f"{cell.case}{'' if turn else ', unmeasured'}")
            try:
                result = run(cell.case)
            except Exception as error:  # of whatever kind: the other cases' figures must not be lost with it
                cell.code, cell.error = _told(error)
                continue
            warm.add(place)
            _agree(cell.case, result.output, outputs)
            if turn:
                record = result.to_json() | {"ranks": result.ranks}
                cell.runs.append(Measured(record, bill(record)))
        if not turn:
            _leave_out(providers, cells)
    return cells


def _leave_out(providers: Mapping[str, Where], cells: Sequence[Cell]) -> None:
    """Where all cases of a provider failed, the first one's error is the provider's."""
    for name, where in providers.items():
        own = [cell for cell in cells if cell.case.provider == name]
        if own and not where.error and all(cell.error for cell in own):
            where.code, where.error = own[0].code, own[0].error
            for cell in own:
                cell.error = None


def _told(error: Exception) -> tuple[Code, str]:
    text = str(error) if isinstance(error, FsdError) else f"{type(error).__name__}: {error}"
    return error.code if isinstance(error, RunFailed) else Code.UNAVAILABLE, " ".join(text.split())


def _agree(case: Case, output: csr_matrix, outputs: dict[int, tuple[Case, csr_matrix]]) -> None:
    """Hold an output against the first with as many workers, and the first of these against the first of all."""
    if case.workers in outputs:
        first, expected = outputs[case.workers]
        same = output.shape == expected.shape and output.dtype == expected.dtype and _equal(output, expected)
        rule = "not bit for bit the same"
    elif outputs:
        first, expected = next(iter(outputs.values()))
        same = output.shape == expected.shape and (_equal(output, expected) or _close(output, expected))
        rule = f"further apart than float32 sums in another order (rtol {RTOL:g}, atol {ATOL:g})"
    else:
        same, first, rule = True, case, ""
    if not same:
        raise CheckFailed(f"outputs differ, so nothing is compared: those of ({case}) and ({first}) are {rule}")
    outputs.setdefault(case.workers, (case, output))


def _equal(one: csr_matrix, other: csr_matrix) -> bool:
    return not (one != other).nnz


def _close(one: csr_matrix, other: csr_matrix) -> bool:
    """As `numpy.allclose`, which would take memory for all that is zero."""
    return bool((abs(one - other) - RTOL * abs(other)).max() <= ATOL)


def median(figure: Figure, cell: Cell) -> Measured:
    """The run of a cell that is its median by a figure, the lower one of an even number: its parts add up, those of medians do not."""
    ordered = sorted(cell.runs, key=figure.total)
    return ordered[(len(ordered) - 1) // 2]


def spread(figure: Figure, cell: Cell) -> tuple[float, float, float]:
    """The median, lowest and highest of a figure's totals."""
    totals = [figure.total(run) for run in cell.runs]
    return figure.total(median(figure, cell)), min(totals), max(totals)


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"median": ordered[(len(ordered) - 1) // 2], "low": ordered[0], "high": ordered[-1]}


def _columns(name: str, three: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}_{key}": value for key, value in three.items()}
