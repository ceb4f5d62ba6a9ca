"""The result of a run, and its record on disk."""

from __future__ import annotations

import math
import os
import sys
import time
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from fsd_core.client.outputs import compare, differences, read_expected, read_truth, write_output
from fsd_core.client.shown import html, tables
from fsd_core.common import arguments
from fsd_core.common.amount import counted
from fsd_core.common.fields import boolean, integer, key, matching, number, read, table
from fsd_core.common.sealed import seal
from fsd_core.common.stopwatch import CELLS, PHASES
from fsd_core.cost import Bill, Tariff, Usage, bill, tariff_of_run
from fsd_core.cost.shown import by_service, title
from fsd_core.errors import InputError
from fsd_core.storage.meter import FIELDS
from fsd_core.versions import versions

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["RANK_SECONDS", "RECORD_VERSION", "Result", "check_rank", "keep", "left_out", "over_ranks", "plain", "warn"]

RECORD_VERSION = 6  # of the record that `keep` writes
LONGEST = ("launch", "load", "compute", "exchange")  # of these, a run's seconds are those of its slowest rank
RANK_SECONDS = ("launch", *PHASES, "starved", "init", "function")


@attrs.frozen(eq=False)
class Result:
    """What a run computed, its times and its counts. The fields have the names and meanings of ``fsd run --json``.

    - ``run``: the id of the run, 16 hexadecimal digits.
    - ``output``: the final activations, scipy CSR float32 (samples, outputs of the model). `TensorResult` has named arrays instead.
    - ``samples``, ``neurons``, ``layers``, ``workers``, ``branching``: numbers. ``neurons``: the neurons of the largest layer.
    - ``provider``, ``channel``, ``partition``: where and how it ran. ``channel`` is never auto.
    - ``parallel``: ``data``, the replicas; ``pipeline``, the stages of a replica; ``tensor``, the workers of a stage.
    - ``micro_batches``: the number of micro-batches of all replicas together.
    - ``seconds_sum``: sums over workers: launch, load, compute, send, exchange, other, starved and init; and function, the sum of the six
      from load to starved. A worker is starved while it is ready to go on but has no processor; the phases load to other do not include
      this time.
    - ``stand_in``: host and port of the emulator; `None` if the run was on the cloud itself.
    - ``latency``: table and seed of the latencies that the run simulated; `None`: none.
    - ``seconds``: total, until the output was complete; stage, a part of it; the maxima over ranks of launch, load, compute and exchange;
      and cleanup, the time after the total, in which the client fetched the records, removed the run's objects and gave its slot back.
    - ``meter``: counts of requests and messages, and bytes, of all workers and the client.
    - ``meter_layers``: the part of ``meter`` that workers requested while they computed the layers.
    - ``memory``: bytes of the worker with the largest memory: ``peak_bytes_max``, ``predicted_bytes_max``, and ``limit_bytes`` if functions
      have a limit; ``streamed``: how many workers read their weights layer by layer, because the weights do not fit into their memory.
    - ``reason``: why the planner chose this split or channel, in one or two sentences; empty if the caller gave both.
    - ``predicted``: the prediction: ``seconds`` (p50, p95), ``parts`` (mean seconds), ``meter``, ``usd``. Also ``lasted``, the actual
      seconds to compare with ``seconds``: from the lease of a slot to the complete output, without staging. `None`: there is no prediction.
    - ``recovered``: the ranks that were lost or slow, in the order of the reports: ``rank``, ``layer`` (the last layer that it began;
      `None` if unknown), ``seconds`` (from the report until the next function of the rank reached this layer), ``reason`` ("slow" if the
      rank was slow or hung).
    - ``audit``: the run's entry in the audit log of the app: its number ``entry`` and its ``digest``, or, if the run has no entry, the
      ``error``; and ``seconds``, the time to write the entry, after the clean-up. `None`: the audit log is off.
    - ``ranks``: the records of the workers, ascending by rank, without those in `missing_ranks`. Each has ``peak_bytes``,
      ``predicted_bytes``, ``kept_bytes`` (sent payloads that it kept in case a rank is lost; part of ``peak_bytes``), and ``kernel``, the
      name of the kernel that it used.

    Two results are equal only if they are the same object. A notebook shows a result as tables.
    """

    run: str
    output: csr_matrix
    samples: int
    neurons: int
    layers: int
    workers: int
    parallel: dict[str, int]
    micro_batches: int
    branching: int
    provider: str
    stand_in: str | None
    channel: str
    partition: str
    seconds: dict[str, float]
    seconds_sum: dict[str, float]
    meter: dict[str, int]
    meter_layers: dict[str, int]
    memory: dict[str, int]
    ranks: list[dict[str, Any]] = attrs.field(repr=False)
    latency: dict[str, Any] | None = None
    reason: str = ""
    predicted: dict[str, Any] | None = None
    recovered: list[dict[str, Any]] = attrs.field(factory=list)
    audit: dict[str, Any] | None = None

    @property
    def missing_ranks(self) -> list[int]:
        """The ranks that left no readable record. Times, counts and memory do not include them; the output does."""
        return sorted(set(range(self.workers)) - {record["rank"] for record in self.ranks})

    @property
    def left_out(self) -> str:
        """A line for people about `missing_ranks`; empty if no rank is missing."""
        return left_out(self.missing_ranks)

    @property
    def network(self) -> str:
        """The size of the model, for people."""
        return f"{counted(self.layers, 'layer')} of up to {counted(self.neurons, 'neuron')}"

    @property
    def output_nonzero_samples(self) -> int:
        """Samples whose final activations are not all zero."""
        return int(np.count_nonzero(np.diff(self.output.indptr)))

    def to_json(self) -> dict[str, Any]:
        """All fields except the output and the ranks' records, as values that JSON can hold."""
        names = ("samples", "neurons", "layers", "workers", "branching", "provider", "channel", "partition", "output_nonzero_samples")
        split = ("parallel", "micro_batches", "seconds_sum")
        more = ("seconds", "meter", "meter_layers", "memory", "run", "stand_in", "latency", "reason", "predicted")
        last = ("missing_ranks", "recovered", "audit")
        return {name: getattr(self, name) for name in (*names, *split, *more, *last)}

    def bill(self, tariff: Tariff | str | os.PathLike[str] | None = None, *, free: bool = False) -> Bill:
        """What the run costs by the prices of ``tariff``, a `Tariff`, a name or a path. Default: the tariff of the run's provider.

        ``free``: subtract the free tiers of one month. Raises `InputError` if the tariff is unknown or of another provider, or if there is
        no default.
        """
        found = tariff_of_run(self.provider, tariff)
        if found is None:
            raise InputError(f"run {self.run}: fsd has no tariff for provider {self.provider}: expected the path of a tariff of your own")
        return bill(Usage.of_run(self.to_json() | {"ranks": self.ranks}), found, free=free)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the output to an .npz in the format of `scipy.sparse.save_npz`, in one step.

        An existing file is replaced only if fsd made it. Raises `InputError` if the path cannot be written.
        """
        write_output(arguments.path("output", path), self.output)

    def check(self, truth: Any) -> dict[str, int]:
        """Compare the samples that end with a nonzero activation with the expected samples.

        ``truth``: the numbers of the expected samples, counted from 1, as whole numbers (numbers,); or the path of a file with one number
        in each line. Returns four counts: ``expected``, the expected samples; ``matched``, the expected samples that end nonzero;
        ``missing``, the expected samples that end zero; ``extra``, other samples that end nonzero. Raises `InputError` on a number outside
        1 to `samples`, or if the file cannot be read.
        """
        if isinstance(truth, str | os.PathLike):
            return compare(read_truth(arguments.path("truth", truth), self.samples), self.output)
        return compare(np.unique(arguments.integers("truth", truth, np.int64, 1, self.samples)), self.output)

    def check_values(self, expected: Any, rtol: float = 1e-4, atol: float = 1e-5) -> dict[str, float]:
        """Compare the output with expected values.

        ``expected``: a matrix (samples, outputs of the model) of a form that `run` takes as inputs; or the path of an .npz or .npy with
        such a matrix. A value differs if its difference is larger than ``atol`` + ``rtol`` x the absolute expected value. Returns
        ``values``, the number of all values; ``differing``, the number of values that differ; and ``largest``, the largest absolute
        difference. Raises `InputError` if the shape is another one or the file cannot be read.
        """
        rtol, atol = (arguments.number(name, value, "a number of at least 0", lambda found: found >= 0) for name, value in
                      (("rtol", rtol), ("atol", atol)))  # fmt: skip
        shape = self.output.shape
        if isinstance(expected, str | os.PathLike):
            wanted = read_expected(arguments.path("expect", expected), shape)
        else:
            wanted = arguments.matrix("expected", expected, shape[1])
        if wanted.shape != shape:
            raise InputError(f"the expected values have shape {wanted.shape}: expected {shape}, samples by outputs of the model")
        return differences(wanted, self.output, rtol, atol)

    def _repr_html_(self) -> str:
        """The result as a notebook shows it: the run, its times, its requests and bytes, its memory, its bill."""
        parts, found = tables(self), tariff_of_run(self.provider)
        if found is not None:
            made = self.bill(found)
            parts.append((title(made), by_service(made)))
        return html(f"Run {self.run}", parts)


def over_ranks(
    records: Sequence[Any], workers: int
) -> tuple[list[dict[str, Any]], dict[str, float], dict[str, float], dict[str, int], dict[str, int], int]:
    """Combine the records of the workers.

    Returns six values: the readable records, ascending by rank; the longest seconds of each phase over these ranks; the sums of
    ``seconds``; the sums of ``meter``; the sums of ``meter_layers``; and the largest peak memory in bytes.

    All figures are 0 if no record is readable.
    """
    by_rank: dict[int, dict[str, Any]] = {}
    for record in records:
        with suppress(InputError):
            check_rank(record)
            if record["rank"] < workers:
                by_rank.setdefault(record["rank"], record)
    ranks = [by_rank[rank] for rank in sorted(by_rank)]
    seconds = {name: max((rank["seconds"][name] for rank in ranks), default=0.0) for name in LONGEST}
    sums = {name: math.fsum(rank["seconds"][name] for rank in ranks) for name in RANK_SECONDS}
    meter, layers = ({name: sum(rank[part][name] for rank in ranks) for name in FIELDS} for part in ("meter", "meter_layers"))
    return ranks, seconds, sums, meter, layers, max((rank["peak_bytes"] for rank in ranks), default=0)


def left_out(missing_ranks: Sequence[int]) -> str:
    """A line for people about ranks that left no record; empty if no rank is missing."""
    if not missing_ranks:
        return ""
    names = ", ".join(map(str, missing_ranks[:8])) + (f" and {len(missing_ranks) - 8} more" if len(missing_ranks) > 8 else "")
    word, them = ("ranks", "them") if len(missing_ranks) > 1 else ("rank", "it")
    return f"{word} {names} left no readable record: times, counts, memory and the bill do not include {them}; the output is complete"


_Seconds = attrs.make_class("_Seconds", {name: key(number()) for name in RANK_SECONDS}, frozen=True)
_Counts = attrs.make_class("_Counts", {name: key(integer(0)) for name in FIELDS}, frozen=True)
_LETTERS = "".join(phase[0] for phase in PHASES)


@attrs.frozen(kw_only=True)
class _Timeline:
    """The keys of a worker's timeline."""

    cell_s: float = key(number())
    phases: str = key(matching(f"[{_LETTERS}]{{1,{CELLS}}}", f"1 to {CELLS} letters of {_LETTERS}"))


@attrs.frozen(kw_only=True)
class _RankRecord:
    """The keys of a worker's record."""

    rank: int = key(integer(0))
    attempt: int = key(integer(0))
    peak_bytes: int = key(integer(0))
    predicted_bytes: int = key(integer(0), default=0)  # which the client adds
    kernel: str = key(matching("[a-z0-9]{1,16}", "the name of a kernel"), default="numpy")
    seconds: Mapping[str, float] = key(table())
    meter: Mapping[str, int] = key(table())
    meter_layers: Mapping[str, int] = key(table())
    timeline: Mapping[str, Any] = key(table())
    incarnation: int = key(integer(0), default=0)
    behind_s: float = key(number(), default=0.0)
    kept_bytes: int = key(integer(0), default=0)
    left: bool = key(boolean(), default=False)  # the worker's record also has what it kept
    shelved: int = key(integer(0), default=0)  # objects of the run that also had what it kept


def check_rank(record: Any, where: str = "") -> None:
    """Raise `InputError` unless ``record`` has the form of a worker's record. The error begins with ``where`` and names the wrong key."""
    read(_RankRecord, table().check(record, where), where)
    tables: dict[str, type[Any]] = {"seconds": _Seconds, "meter": _Counts, "meter_layers": _Counts, "timeline": _Timeline}
    for name, cls in tables.items():
        read(cls, record[name], f"{where}{name}.")


def keep(result: Result, home: Path, about: Mapping[str, Any]) -> None:
    """Write the record of a run below ``home``: the result without its output, and what is needed to repeat the run. Warns if it fails.

    ``about``: engine, objective, seed, faults, batches, model (its digest), note, and began (seconds since 1970).
    """
    file = home / "runs" / f"{result.run}.json"
    aside = file.with_suffix(".new")
    try:
        began = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(about["began"]))
        note = {plain(name): plain(text) for name, text in about["note"].items()}
        record = {"version": RECORD_VERSION, **about, "note": note, "began": began, "versions": versions(result.provider)}
        record |= result.to_json() | {"partition": plain(result.partition), "ranks": result.ranks}
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(seal(record))
        aside.replace(file)
    except Exception as error:  # of any kind: it must not cost the result
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        reason = error.strerror or error if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        warn(f"the run's record cannot be kept in {file.parent}: {reason}")


def warn(text: str) -> None:
    """Warn without ever raising: if Python turns warnings into errors, print the text on standard error, so that the result is not lost."""
    try:
        warnings.warn(text, stacklevel=3)
    except Warning:
        with suppress(Exception):  # standard error may be closed
            print(f"warning: {text}", file=sys.stderr)


def plain(text: str) -> str:
    """The text as one line for a screen: control characters and unpaired surrogates become question marks."""
    return "".join("?" if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") else each for each in text)
