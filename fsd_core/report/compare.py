"""The runs of ``fsd compare``: the same model and partition on several providers and channels.

The cases take turns, so that a slow moment of this machine or of a cloud affects all cases.

Only runs with equal outputs are compared. With the same number of workers, outputs are equal bit for bit, since every sum is made in the
same order; with different numbers, they are equal within `RTOL` and `ATOL`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import attrs

from fsd_core.client.result import left_out
from fsd_core.common import arguments
from fsd_core.common.amount import counted
from fsd_core.driver import Code
from fsd_core.errors import CheckFailed, FsdError, RunFailed
from fsd_core.report.figures import FIGURES, Figure, Measured

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from fsd_core import Result

__all__ = ["COLUMNS", "Case", "Cell", "Comparison", "Where", "median", "spread", "take_turns"]

RTOL, ATOL = 1e-3, 1e-4  # of float32 sums in different orders
COLUMNS = ("workers", "channel", "provider", "time", "predicted", "requests", "MB", "USD for 1000", "predicted USD")
CSV_START = ("provider", "emulator", "tariff", "channel", "workers", "runs")


@attrs.frozen
class Case:
    """One way to run the model."""

    provider: str
    channel: str
    workers: int

    def __str__(self) -> str:
        return f"{self.provider}, {self.channel}, {counted(self.workers, 'worker')}"


@attrs.define
class Cell:
    """A case, its measured runs in order, and the error that ended its runs."""

    case: Case
    runs: list[Measured] = attrs.field(factory=list)
    error: str | None = None
    code: Code = Code.UNKNOWN  # of the error

    @property
    def predicted(self) -> Mapping[str, Any] | None:
        """The prediction of the first measured run; see `fsd_core.client.result.Result`."""
        return self.runs[0].record.get("predicted") if self.runs else None


@attrs.define
class Where:
    """A provider: name or address of its emulator, name of its tariff, and the error if no case could run on this provider."""

    emulator: str | None
    tariff: str
    error: str | None = None
    code: Code = Code.UNAVAILABLE  # of the error


@attrs.frozen
class Comparison:
    """The runs of `compare`.

    - ``about``: the configuration and versions with which the comparison can be repeated.
    - ``providers``: by name: the ``emulator``, the name of the ``tariff``, and the ``error`` of a provider that cannot start.
    - ``cells``: for each combination its ``case`` (provider, channel, workers), its measured ``runs`` in order, each with ``record`` and
      ``bill``, and the ``error`` that ended them.
    """

    about: Mapping[str, str | int | float]
    providers: Mapping[str, Where]
    cells: Sequence[Cell]

    def failures(self) -> list[tuple[Code, str]]:
        """A code and a line for each provider and each case that could not run."""
        found = [(where.code, f"{name}: {where.error}") for name, where in self.providers.items() if where.error]
        alone = (cell for cell in self.cells if cell.error and not self.providers[cell.case.provider].error)
        return found + [(cell.code, f"{cell.case}: {cell.error}") for cell in alone]

    def why(self, cell: Cell) -> str | None:
        """The reason why a cell has no figures; `None` if it has figures."""
        return None if cell.runs else cell.error or self.providers[cell.case.provider].error or "did not run"

    def left_out(self) -> list[str]:
        """A line for each run in which ranks left no record."""
        runs = [(cell.case, run.record) for cell in self.cells for run in cell.runs]
        return [f"{case}, run {run['run']}: {words}" for case, run in runs if (words := left_out(run.get("missing_ranks", ())))]

    @property
    def headline(self) -> str:
        """The fastest and the cheapest platform, by which factors, and from which runs this follows; empty if nothing ran."""
        ran = [cell for cell in self.cells if cell.runs]
        if not ran:
            return ""
        found = []
        for figure, most, more, unit in ((FIGURES[0], "Fastest", "faster", "s"), (FIGURES[-1], "Cheapest", "cheaper", "USD for 1000 runs")):
            best = _best(ran, figure)
            value, case = spread(figure, best)[0], best.case
            words = f"{most}: {case.provider} ({case.channel}, {counted(case.workers, 'worker')}) with {value:.3g} {unit}"
            others = [cell for cell in ran if cell.case.provider != case.provider]
            if others:
                other = _best(others, figure)
                least = spread(figure, other)[0]
                words += f", {1 - value / least:.0%} {more} than {other.case.provider}" if value < least else f", as {other.case.provider}"
            found.append(words)
        times = sorted({self._times(cell) for cell in ran})
        prices = sorted({f"{cell.runs[0].bill.tariff.name} ({cell.runs[0].bill.tariff.as_of})" for cell in ran})
        runs = min(len(cell.runs) for cell in ran)
        return f"{'. '.join(found)}. Medians of {counted(runs, 'run')}; times: {', '.join(times)}; prices: {', '.join(prices)}."

    def _times(self, cell: Cell) -> str:
        """Where the times of a cell come from."""
        record, where = cell.runs[0].record, self.providers[cell.case.provider]
        place = "an emulator on this machine" if where.emulator else "this machine" if cell.case.provider == "local" else cell.case.provider
        if latency := record.get("latency"):
            dated = f", measured {latency['measured']}" if latency.get("measured") else ""
            return f"{place} with the latencies of table {latency['table']}{dated}"
        return place

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each case, with a text for each of `COLUMNS`: the median of each figure; for the time also lowest and highest."""
        rows: list[tuple[str, ...]] = []
        for cell in self.cells:
            head = (str(cell.case.workers), cell.case.channel, cell.case.provider)
            if self.why(cell):
                rows.append((*head, "failed, see below" if cell.error else "cannot start", "", "", "", "", ""))
                continue
            seconds, requests, sizes, usd = (spread(figure, cell) for figure in FIGURES)
            span = f"{seconds[0]:.2f} s" + (f" ({seconds[1]:.2f} to {seconds[2]:.2f})" if len(cell.runs) > 1 else "")
            mark = "*" if cell.runs[0].bill.doubted else ""
            mine = cell.predicted
            wait = f"{mine['seconds']['p50']:.2f} s" if mine else ""
            price = f"{1000 * mine['usd']:.4f}" if mine and mine["usd"] is not None else ""
            rows.append((*head, span, wait, f"{requests[0]:.0f}", f"{sizes[0] / 1e6:.2f}", f"{usd[0]:.4f}{mark}", price))
        return rows

    def notes(self) -> list[str]:
        """Lines below the rows: prices of low confidence, failures, and runs in which ranks left no record."""
        doubted = sorted({f"{price.service} {price.sku}" for cell in self.cells for run in cell.runs for price in run.bill.doubted})
        notes = [f"* with a price of low confidence: {', '.join(doubted)}"] if doubted else []
        return notes + [text for _, text in self.failures()] + self.left_out()

    def _repr_html_(self) -> str:
        """The comparison as a notebook shows it: its rows and its notes."""
        head = "".join(f"<th scope='col'>{name}</th>" for name in COLUMNS)
        body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in self.rows())
        notes = "".join(f"<p>{escape(text)}</p>" for text in self.notes())
        table = f"<table><caption>Median of each</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<p>{escape(self.headline)}</p>{table}{notes}"

    def to_json(self) -> dict[str, Any]:
        """The comparison as values that JSON can hold."""
        where = {name: {"emulator": each.emulator, "tariff": each.tariff, "error": each.error} for name, each in self.providers.items()}
        return {
            "about": dict(self.about),
            "headline": self.headline,
            "providers": where,
            "cells": [self._cell(cell) for cell in self.cells],
        }

    def _cell(self, cell: Cell) -> dict[str, Any]:
        fields: dict[str, Any] = {"provider": cell.case.provider, "channel": cell.case.channel, "workers": cell.case.workers}
        fields |= {"error": self.why(cell) or cell.error, "runs": [run.record["run"] for run in cell.runs]}
        if cell.runs:
            record, bill = cell.runs[0].record, [run.bill for run in cell.runs]
            fields |= {group: {name: _spread([run.record[group][name] for run in cell.runs]) for name in record[group]} for group in (
                "seconds", "meter", "memory",
            )}  # fmt: skip
            fields["partition"], fields["predicted"] = record["partition"], cell.predicted
            fields["usd"] = _spread([each.total_usd for each in bill])
            fields["usd_otherwise"] = _spread([each.otherwise_usd for each in bill])
            fields["low_confidence"] = sorted({f"{price.service} {price.sku}" for each in bill for price in each.doubted})
            middle = median(FIGURES[-1], cell).bill
            fields["services"] = {name: sum(line.usd for line in lines) for name, lines in middle.by_service.items()}
        return fields

    def to_csv(self) -> str:
        """CSV with a row for each case: median, lowest and highest of each figure. Money is USD of one run."""
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


def _best(cells: Sequence[Cell], figure: Figure) -> Cell:
    return min(cells, key=lambda cell: spread(figure, cell)[0])


def take_turns(
    cases: Sequence[Case],
    repeat: int,
    providers: Mapping[str, Where],
    run: Callable[[Case], Result],
    bill: Callable[[Mapping[str, Any]], Any],
    tell: Callable[[int, int, str], None] | None = None,
) -> list[Cell]:
    """Run all cases in turns, ``repeat`` times each, after a first turn that is not measured.

    In the first turn, one case of each provider and number of workers runs: it makes the resources and writes the weights into the store,
    so that no measured run has to do this. A case that fails does not run again. If all cases of a provider fail in the first turn, its
    entry in ``providers`` gets the error. ``bill`` computes the bill of a record. ``tell`` is called with the number of runs done, the
    number of all runs and a text.

    Raises `CheckFailed` as soon as two outputs differ.
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
            except Exception as error:  # of any kind: the figures of the other cases are kept
                cell.code, cell.error = _explained(error)
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
    """Where all cases of a provider failed, make the first error the provider's."""
    for name, where in providers.items():
        own = [cell for cell in cells if cell.case.provider == name]
        if own and not where.error and all(cell.error for cell in own):
            where.code, where.error = own[0].code, own[0].error
            for cell in own:
                cell.error = None


def _explained(error: Exception) -> tuple[Code, str]:
    text = str(error) if isinstance(error, FsdError) else f"{type(error).__name__}: {error}"
    return error.code if isinstance(error, RunFailed) else Code.UNAVAILABLE, " ".join(text.split())


def _agree(case: Case, output: csr_matrix, outputs: dict[int, tuple[Case, csr_matrix]]) -> None:
    """Compare an output with the first output of the same number of workers. The first output of each number: with the first of all."""
    if case.workers in outputs:
        first, expected = outputs[case.workers]
        same = output.shape == expected.shape and output.dtype == expected.dtype and _equal(output, expected)
        rule = "are not equal bit for bit"
    elif outputs:
        first, expected = next(iter(outputs.values()))
        same = output.shape == expected.shape and (_equal(output, expected) or _close(output, expected))
        rule = f"differ by more than float32 sums in different orders may (rtol {RTOL:g}, atol {ATOL:g})"
    else:
        same, first, rule = True, case, ""
    if not same:
        raise CheckFailed(f"outputs differ, so nothing is compared: the outputs of ({case}) and ({first}) {rule}")
    outputs.setdefault(case.workers, (case, output))


def _equal(one: csr_matrix, other: csr_matrix) -> bool:
    return not (one != other).nnz


def _close(one: csr_matrix, other: csr_matrix) -> bool:
    """Like `numpy.allclose` of the dense matrices, but without memory for their zeros."""
    return bool((abs(one - other) - RTOL * abs(other)).max() <= ATOL)


def median(figure: Figure, cell: Cell) -> Measured:
    """The run of a cell with the median total of ``figure``; if the number of runs is even, the lower one of the two middle runs."""
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
