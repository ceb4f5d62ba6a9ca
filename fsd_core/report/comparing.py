"""`compare`: checks its arguments, starts emulators, and runs one model on several providers and channels."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from fsd_core import cost
from fsd_core import latency as tables_of
from fsd_core import providers as registered
from fsd_core.client.inference import check_options, run
from fsd_core.client.job import Progress
from fsd_core.client.result import Result
from fsd_core.common import arguments, interrupt
from fsd_core.config import KINDS, Settings
from fsd_core.cost import Tariff, Usage
from fsd_core.errors import FsdError, InputError
from fsd_core.latency import Latency
from fsd_core.machine.emulators import emulator as emulated
from fsd_core.model import Model, open_model
from fsd_core.model.inputs import open_samples
from fsd_core.partition import METHODS, Partition, checked, find_partition, parallel
from fsd_core.plan.batches import plan_batches
from fsd_core.protocol.runconfig import CHANNELS
from fsd_core.report.compare import Case, Comparison, Where, take_turns
from fsd_core.versions import versions
from fsd_core.wrappers.faults import Faults

__all__ = ["compare"]

_SIZES = ("data_parallel", "pipeline_parallel", "tensor_parallel")
_TOLD = (*_SIZES, "branching", "partition", "objective", "batch_size", "seed", "latency")  # settings that the page shows
_SET_HERE = ("model", "inputs", "provider", "channel", "workers", "partition", "settings", "home", "note", "progress")


@interrupt.heard()
def compare(
    model: Model | str | os.PathLike[str],
    inputs: Any,
    providers: Sequence[str],
    *,
    channels: Sequence[str] = CHANNELS,
    workers: Sequence[int] = (2, 4, 8),
    repeat: int = 3,
    partition: str | os.PathLike[str] | Partition = "hypergraph",
    emulator: bool = False,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    home: str | os.PathLike[str] | None = None,
    note: Mapping[str, str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Comparison:
    """Run ``model`` on ``inputs`` with every combination of provider, channel and number of workers.

    - ``model``, ``inputs``, ``partition``, ``home``: those of `run`. With several numbers of workers, ``partition`` has to be a method.
    - ``providers``: names of providers, such as ``["local", "aws"]``. Each has to have a tariff.
    - ``channels``: some of queue, object and hybrid. ``workers``: numbers of workers.
    - ``repeat``: the number of measured runs of each combination.
    - ``emulator``: use an emulator of each cloud, which is started if none runs, instead of the cloud.
    - ``settings``: the providers' own settings, by provider.
    - ``note``: texts by name, which the page and the answer show first.
    - ``progress``: called with a `Progress` of phase partition, emulator or compare.
    - ``options``: other arguments of `run`, for instance ``batch_size``, ``seed`` or ``app``. With ``latency`` auto, also with
      options such as ``auto,seed=1``, each provider has its own table of latencies, and the local provider has none.

    The first run of each provider and number of workers is not measured: it makes the resources and stages the weights. Then the
    combinations take turns. A combination that fails, and a provider that cannot start, have no figures; `Comparison.failures` names them.

    Raises `InputError` before anything starts if an argument is wrong, and `CheckFailed` if two outputs differ.
    """
    names = _each("providers", providers, partial(arguments.one_of, allowed=registered.installed()))
    ways = _each("channels", channels, partial(arguments.one_of, allowed=CHANNELS))
    counts = _each("workers", workers, partial(arguments.whole, low=1))
    repeat, on_emulator = arguments.whole("repeat", repeat, 1), arguments.yes_or_no("emulator", emulator)
    partition = checked(partition)
    label = "given" if isinstance(partition, Partition) else os.fspath(partition)
    if len(counts) > 1 and label not in METHODS:
        shown = "(a Partition)" if isinstance(partition, Partition) else partition
        raise InputError(f"partition {shown}: expected one number in workers: the number of workers of this partition")
    same = _options(options)
    latencies = {name: _latency(name, same.get("latency")) for name in names}
    tables = {name: arguments.table(f"settings[{name!r}]", each) for name, each in arguments.table("settings", settings).items()}
    tell, kept = arguments.callback("progress", progress), arguments.home(home)
    show: Callable[[Progress], None] = tell or (lambda step: None)
    given = {key: os.fsdecode(each) for key, each in (("model", model), ("input", inputs)) if isinstance(each, str | os.PathLike)}
    network = model if isinstance(model, Model) else open_model(model)
    samples = open_samples(inputs, network)
    about: dict[str, Any] = {**arguments.texts("note", note)}
    about |= {"model": network.name, "input": "given"} | given
    about |= {"samples": samples.shape[0], "neurons": network.neurons, "layers": len(network.layers)}
    about |= {key: {**same, "partition": label}.get(key, getattr(Settings(), key)) for key in _TOLD}
    about |= {"repeat": repeat, "began": time.strftime("%Y-%m-%d %H:%M:%S %z"), "model digest": network.digest} | versions(*names)
    about = {key: value for key, value in about.items() if value is not None}
    sizes: dict[int, dict[str, Any]] = {}
    for count in counts:  # an error here would stop all runs: it is found before anything starts
        advance = lambda done, total: show(Progress("partition", done, total))  # noqa: E731
        split = parallel(count, *(same.get(size) for size in _SIZES))
        sizes[count] = {f"{name}_parallel": size for name, size in split.to_json().items()}
        costs = plan_batches(network, samples, same.get("batch_size"), split)[1]
        find_partition(partition, network, split.parts, same.get("seed", 0), kept, advance, stages=split.pipeline, costs=costs)
    tariffs = {name: _tariff(name) for name in names}
    cases = [Case(name, way, count) for count in counts for way in ways for name in names]
    with ExitStack() as stack:
        ready, wheres = _start(stack, on_emulator, tables, tariffs, show)

        def start(case: Case) -> Result:
            return run(
                network,
                samples,
                provider=case.provider,
                channel=case.channel,
                **sizes[case.workers],
                settings=ready[case.provider],
                partition=partition,
                home=kept,
                note=given,
                latency=latencies[case.provider],
                **{name: value for name, value in same.items() if name not in (*_SIZES, "latency")},
            )

        def charge(record: Mapping[str, Any]) -> cost.Bill:
            return cost.bill(Usage.of_run(record), tariffs[record["provider"]])

        cells = take_turns(cases, repeat, wheres, start, charge, lambda done, total, text: show(Progress("compare", done, total, text)))
    return Comparison(about, wheres, cells)


def _each(name: str, values: Any, check: Callable[[str, Any], Any]) -> list[Any]:
    """A sequence of different values, each checked."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise arguments.wrong(name, values, "a list")
    found = [check(name, value) for value in values]
    if not found:
        raise InputError(f"{name} []: expected at least one")
    if twice := next((value for value in found if found.count(value) > 1), None):
        raise InputError(f"{name}: {twice!r} is given twice: expected each once")
    return found


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The other arguments of a run. Raises `InputError` on an argument that `run` does not have, and on a wrong value."""
    values = check_options(options, _SET_HERE)
    for name, value in values.items():
        if name in KINDS and value is not None:
            values[name] = KINDS[name].check(value, f"{name} ")
    if values.get("faults") is not None:
        Faults.parse(str(values["faults"]))
    return values


def _latency(provider: str, asked: str | None) -> str | None:
    """The ``latency`` of a run on ``provider``: if ``asked`` is auto, its own table with the same options. Raises `InputError` if wrong."""
    if asked is None:
        return None
    first, *options = str(asked).split(",")
    if first.strip() == "auto":
        Latency.options(options)
        if provider == "local" or tables_of.find(provider) is None:
            return None
        asked = ",".join([provider, *options])
    Latency.parse(str(asked))
    return str(asked)


def _needs_emulator(provider: str) -> bool:
    """Whether a run without an account needs an emulator: not if the provider has harnesses but no emulator, as local."""
    from fsd_conformance import emulators

    return bool(emulators.names(provider)) or not emulators.harnesses(provider)


def _tariff(provider: str) -> Tariff:
    found = cost.tariff_of_run(provider)
    if found is None:
        text = "its package has no tariff: expected a file of prices in its folder tariffs, which may all be 0 (see: fsd tariff list)"
        raise InputError(f"providers {provider}: {text}")
    return found


def _start(
    stack: ExitStack,
    on_emulator: bool,
    tables: Mapping[str, Mapping[str, object]],
    tariffs: Mapping[str, Tariff],
    show: Callable[[Progress], None],
) -> tuple[dict[str, Mapping[str, object]], dict[str, Where]]:
    """Start the emulators. Returns the settings of each provider that can start, and emulator, tariff and error of all providers."""
    ready: dict[str, Mapping[str, object]] = {}
    wheres: dict[str, Where] = {}
    for name, tariff in tariffs.items():
        where, own = Where(None, tariff.name), tables.get(name, {})
        wheres[name] = where
        try:
            where.emulator = registered.find(name).stand_in()
            if on_emulator and _needs_emulator(name):
                from fsd_conformance import emulators

                own = stack.enter_context(emulated(name, settings=own, progress=show))
                running = emulators.state(name)
                where.emulator = running.name if running and running.alive() else emulators.names(name)[0]
            ready[name] = own
        except (FsdError, OSError, ImportError) as error:
            where.error = " ".join(str(error).split())
    return ready, wheres
