"""`measure`: measures the services of an app from its functions, and writes the figures to a table of latencies."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from fsd_core.client.apps import place, reported
from fsd_core.client.job import Progress
from fsd_core.client.result import warn
from fsd_core.common import arguments, interrupt
from fsd_core.cost import Tariff, Usage, bill, default_tariff
from fsd_core.cost import load as load_tariff
from fsd_core.errors import InputError, RunFailed
from fsd_core.latency import VERBS, Table, shipped_table
from fsd_core.latency.fit import extra, fitted, rate
from fsd_core.latency.named import measured_file
from fsd_core.latency.table import Link, Measured
from fsd_core.latency.writing import check, write
from fsd_core.measuring.asking import FULL, QUICK, Estimate, hour_usd
from fsd_core.measuring.session import Found, Session
from fsd_core.measuring.sizes import sizes_of
from fsd_core.plan.places import outline_of
from fsd_core.protocol.measuring import LARGE_BYTES, SMALL_BYTES, STREAM_BYTES
from fsd_core.providers.outline import Outline
from fsd_core.worker.measuring import kernel_rate

__all__ = ["Measurement", "measure"]

SLOTS = 4  # of an app that a measurement makes
RANKS = 2  # the queues that the app needs: one for the function that measures, one for the client
NEEDED = ("publish", "deliver", "ack", "put", "get", "list")  # if one of these has no sample, `measure` warns
KERNEL_S = 0.3  # to measure the kernel on this machine


@attrs.frozen(kw_only=True, eq=False)
class Measurement:
    """The result of `measure`.

    - ``provider``, ``app``, ``region``: the measured app. ``stand_in``: host and port of the emulator; `None`: the cloud itself.
    - ``table``: the table of latencies; ``file``: the path of its file, `None` if it could not be written.
    - ``samples``: all measured times in milliseconds, by verb. ``received``: how many messages each receive of a burst returned.
    - ``usd``: the cost by the tariff ``tariff``; `None` without a tariff. ``usd_estimate``: the upper bound before the measurement.
    - ``seconds``: how long the measurement took.
    """

    provider: str
    app: str
    region: str
    stand_in: str | None
    quick: bool
    table: Table
    file: Path | None
    samples: Mapping[str, Sequence[float]] = attrs.field(repr=False)
    received: Sequence[int] = attrs.field(repr=False)
    tariff: str
    usd: float | None
    usd_estimate: float | None
    seconds: float

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The measured verbs, in the order of the table: verb, n (samples), p50_ms, p90_ms, p99_ms, mb_per_s; `None`: not measured."""
        found: list[dict[str, Any]] = []
        for verb, row in self.table.rows.items():
            if verb in self.samples:
                figures = {"p50_ms": row.p50_ms, "p90_ms": row.p90_ms, "p99_ms": row.p99_ms, "mb_per_s": row.mb_per_s}
                found.append({"verb": verb, "n": len(self.samples[verb]), **figures})
        for side, link in self.table.links.items():
            if link.kind == "measured" and link.as_of == self.table.as_of:
                found.append({"verb": side, "n": 1, "p50_ms": None, "p90_ms": None, "p99_ms": None, "mb_per_s": link.mb_per_s})
        return found

    def to_json(self) -> dict[str, Any]:
        """The measurement as values that JSON can hold, without the samples."""
        names = ("provider", "app", "region", "stand_in", "quick", "tariff", "usd", "usd_estimate", "seconds")
        assert self.table.measured is not None
        more = {name: value for name, value in attrs.asdict(self.table.measured).items() if name not in ("provider", "region", "emulator")}
        more["sizes"] = [dict(zip(("memory_mb", "weights_per_s", "cores"), each, strict=True)) for each in self.table.measured.sizes]
        return {**{name: getattr(self, name) for name in names}, **more, "rows": self.rows, "file": self.file and str(self.file)}


@interrupt.heard()
def measure(
    provider: str = "local",
    app: str = "fsd",
    settings: Mapping[str, object] | None = None,
    *,
    quick: bool = False,
    max_usd: float = 0.5,
    memory_mb: Sequence[int] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Measurement:
    """Measure the services of an app from its functions, and write the figures to a table of latencies, as ``fsd measure`` does.

    - ``provider``, ``app``, ``settings``: those of `run`. If the app does not exist, `measure` makes it, as `run` does.
    - ``quick``: take fewer samples, in about half a minute. They are too few for the 99th percentile.
    - ``max_usd``: the largest cost of the measurement in USD by the tariff of the provider, at least 0. Default: 0.5.
    - ``memory_mb``: more sizes of functions, in MiB: `measure` also measures how fast these compute. For each size, it makes a second app,
      which takes minutes on a cloud, and removes that app. If a size fails, `measure` warns. Default: only the size of ``app``.
    - ``progress``: called with a `Progress` of the phases ask (its ``text`` says what the measurement will request and cost), provision and
      measure.

    The file of the table is ``$FSD_HOME/measured/PROVIDER-REGION.toml``. ``--latency``, `make_plan` and `run` use this table instead of the
    table that comes with the provider. For an emulator, the name of the file ends in ``-emulator``, and a table is used only if its path is
    given. A measurement holds a slot of the app, as a run does; at its end, also after an interrupt, it gives the slot back and removes
    its objects.

    Returns a `Measurement`. Raises `InputError` before anything is measured if an argument is wrong, if the estimate is above ``max_usd``,
    if there is an app with the name of that for a size, or if the file cannot be written or fsd did not make it; and `RunFailed` or
    `DriverError` if a function or a service fails. Warns if the file cannot be written at the end.
    """
    began = time.monotonic()
    quick = arguments.yes_or_no("quick", quick)
    most = arguments.number("max_usd", max_usd, "a number of USD of at least 0", lambda value: value >= 0)
    report = arguments.callback("progress", progress) or (lambda step: None)
    chosen, provisioner = place(provider, app, settings)
    outline = outline_of(provider, settings or {})
    tariff = load_tariff(priced) if (priced := default_tariff(provider)) is not None else None
    ask, emulator = QUICK if quick else FULL, chosen.stand_in()
    estimate, sizes = ask.estimate(outline, tariff), sizes_of(provider, app, settings or {}, _sizes(memory_mb, outline))
    for each in sizes:
        estimate = estimate.with_size(each.memory_mb, each.estimate(ask.kernel, tariff))
    if estimate.usd is not None and estimate.usd > most:
        raise InputError(_too_dear(most, estimate, None if quick or sizes else QUICK.estimate(outline, tariff)))
    report(Progress("ask", 0, 0, estimate.words(provider, emulator)))
    with reported(progress):
        for each in sizes:
            each.check()
        existing = provisioner.find(app)
        ranks, slots = (max(RANKS, existing.ranks), existing.slots) if existing else (RANKS, SLOTS)
        resources = provisioner.ensure(app, ranks, slots)
    region = resources.names.get("region", "") or "here"
    path = measured_file(provider, region, emulator=emulator is not None)
    check(path)  # before anything is paid for
    try:
        found = Session(chosen, resources, ask, lambda done, total, text: report(Progress("measure", done, total, text))).execute()
    except RunFailed as error:
        if advice := chosen.advice(error.message):
            error.message += f"; {advice}"
        raise
    if lost := [verb for verb in NEEDED if not found.samples.get(verb)]:
        missing = ", ".join(lost)
        warn(
            f"the measurement ended after {ask.limit_s:g} s without samples of {missing}: the table has no measured figures of these verbs"
        )
    own_rate = kernel_rate(KERNEL_S)[1]
    all_found = [found]
    table = _table(provider, region, emulator, all_found, own_rate)
    file = _kept(table, path)
    for each in sizes:
        if (other := each.measure(ask.kernel, report)) is not None:
            all_found.append(other)
            table = _table(provider, region, emulator, all_found, own_rate)
            file = _kept(table, path) or file  # after each size: the figures are paid for
    usd = [_bill(each, tariff, each.memory_mb or estimate.usage.memory_mb or 0.0) for each in all_found]
    usd += [hour_usd(tariff) for _ in all_found[1:] if tariff is not None]
    return Measurement(
        provider=provider,
        app=app,
        region=region,
        stand_in=emulator,
        quick=quick,
        table=table,
        file=file,
        samples=_by_verb(found.samples),
        received=found.received,
        tariff=estimate.tariff,
        usd=None if tariff is None else sum(usd),
        usd_estimate=estimate.usd,
        seconds=time.monotonic() - began,
    )


def _too_dear(most: float, estimate: Estimate, quick: Estimate | None) -> str:
    usd = estimate.usd or 0.0
    enough = math.ceil(usd * 1e4) / 1e4
    line = f"max_usd {most:g}: the measurement may cost {usd:.4f} USD by the tariff {estimate.tariff}: expected at least {enough:g}"
    if quick is not None and quick.usd is not None and quick.usd <= most:
        line += f", or a quick measurement, which may cost {quick.usd:.4f} USD"
    return line


def _by_verb(samples: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """The samples of each verb: for put and get those of small objects, for connect the extra time of first requests."""
    found = {verb: samples[verb] for verb in VERBS if samples.get(verb)}
    if samples.get("get_first") and samples.get("get"):
        longer = extra(samples["get_first"], samples["get"])
        if any(longer):
            found["connect"] = longer
    return {verb: found[verb] for verb in VERBS if verb in found}


def _kept(table: Table, path: Path) -> Path | None:
    """Write the table. Returns its path; `None`, with a warning, if it cannot be written: the figures are paid for."""
    try:
        write(table, path)
    except (InputError, OSError) as error:
        warn(f"the table of latencies cannot be written: {error}: make room for it in {path.parent}, then measure again")
        return None
    return path


def _sizes(memory_mb: Sequence[int], outline: Outline | None) -> list[int]:
    """The sizes, ascending, each once, without that of the app."""
    if isinstance(memory_mb, str) or not isinstance(memory_mb, Sequence):
        raise InputError(f"memory_mb {arguments.shown(memory_mb)}: expected a sequence of whole numbers of MiB")
    own = outline.functions.memory_bytes if outline is not None else None
    return sorted({size for each in memory_mb if (size := arguments.whole("memory_mb", each, 1)) << 20 != own})


def _table(provider: str, region: str, emulator: str | None, all_found: Sequence[Found], own_rate: float) -> Table:
    """The table of a measurement. ``all_found``: the figures of the app, then those of functions of other sizes."""
    found = all_found[0]
    today = datetime.date.today().isoformat()
    where = f"fsd measure, an emulator at {emulator}" if emulator else "fsd measure"
    texts: dict[str, Any] = {"as_of": today, "region": region}
    rows = {}
    for verb, times in _by_verb(found.samples).items():
        large = found.samples.get(f"{verb}_large")
        speed = rate(times, large, LARGE_BYTES - SMALL_BYTES) if large else None
        rows[verb] = fitted(times, mb_per_s=speed, source=f"{where}, {_how(verb)}", **texts)
    links = {
        side: Link(
            mb_per_s=float(f"{value:.4g}"),
            confidence="low",
            source=f"{where}, objects of {STREAM_BYTES / 1e6:g} MB, several at once",
            **texts,
        )
        for side, value in found.rates.items()
    }
    shipped = None if emulator else shipped_table(provider)
    if shipped is not None:  # a verb without a row would take no time
        rows = {verb: rows.get(verb) or shipped.rows[verb] for verb in VERBS if verb in rows or verb in shipped.rows}
        links = {**shipped.links, **links}
    return Table(
        name=provider,
        title=f"{provider} ({region}), measured by fsd{' on an emulator' if emulator else ''}",
        as_of=today,
        hour_share=shipped.hour_share if shipped else 0.0,  # a measurement of some minutes shows neither
        function_share=shipped.function_share if shipped else 0.0,
        rows=rows,
        links=links,
        measured=Measured(
            provider=provider,
            region=region,
            emulator=emulator or "",
            memory_mb=found.memory_mb,
            receive_messages=_rounded(sum(found.received) / len(found.received)) if found.received else None,
            clock_offset_ms=_rounded(found.offset_ms),
            clock_error_ms=_rounded(found.offset_error_ms),
            weights_per_s=_rounded(found.kernel[0]) if found.kernel else None,
            speed=_rounded(found.kernel[1] / own_rate) if found.kernel else None,
            sizes=tuple(sorted(_size(*each.size) for each in all_found if each.size is not None)),
        ),
    )


def _size(memory_mb: float, weights_per_s: float, cores: float) -> tuple[float, float, float]:
    return memory_mb, float(f"{weights_per_s:.4g}"), float(f"{cores:.4g}")


def _rounded(value: float | None) -> float | None:
    """Round to four digits: a measurement is less exact than that."""
    return None if value is None else float(f"{value:.4g}")


def _how(verb: str) -> str:
    """How a verb was measured, for the source of its row."""
    if verb.startswith("start"):
        return "from the client's clock to the function's, corrected by their offset"
    return "by the client" if verb == "invoke" else "by a function"


def _bill(found: Found, tariff: Tariff | None, memory_mb: float) -> float:
    if tariff is None:
        return 0.0
    stored = found.meter["object_bytes_written"] * max(found.lasts, default=0.0)
    lasts = tuple((seconds, 0.0) for seconds in found.lasts)
    return bill(Usage({**found.meter, "stored_byte_seconds": stored}, lasts, 0.0, memory_mb), tariff).total_usd
