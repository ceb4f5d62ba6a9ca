"""`run`: checks its arguments, prepares model, inputs, partition and app, and executes a `Job`."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fsd_core.client.apps import check_engine, place, reported, with_engine
from fsd_core.client.expected import Expectation
from fsd_core.client.job import Job, Progress
from fsd_core.client.opened import open_run
from fsd_core.client.result import Result, warn
from fsd_core.client.rows import rows_work
from fsd_core.client.stages import stages_work
from fsd_core.client.stragglers import obstacle
from fsd_core.client.work import Work
from fsd_core.common import arguments, interrupt
from fsd_core.common.fields import suggestion
from fsd_core.driver import InvokeDriver, InvokeLimits, ObjectDriver, Provider, Resources
from fsd_core.errors import DamagedContent, InputError, RunFailed
from fsd_core.graph import Graph
from fsd_core.latency import Latency
from fsd_core.partition import METHODS, Parallel, Partition, checked, parallel, wished
from fsd_core.plan.deciding import decide
from fsd_core.plan.places import outline_of
from fsd_core.plan.row_workload import RowWorkload
from fsd_core.plan.ways import Given
from fsd_core.plan.workload import Workload
from fsd_core.protocol.runconfig import CHANNELS, OBJECTIVES, RECOVERY
from fsd_core.storage.retry import OUTAGE_S
from fsd_core.wrappers.faults import Faults

if TYPE_CHECKING:
    from fsd_core.model import Model

__all__ = ["check_options", "run"]

SLOTS = 4  # of an app that a run makes


@interrupt.heard()
def run(
    model: Model | Graph | str | os.PathLike[str],
    inputs: Any,
    *,
    provider: str = "local",
    channel: str = "auto",
    workers: int | str = "auto",
    data_parallel: int | None = None,
    pipeline_parallel: int | None = None,
    tensor_parallel: int | None = None,
    branching: int = 4,
    partition: str | os.PathLike[str] | Partition = "hypergraph",
    objective: str = "cost",
    engine: str = "auto",
    batch_axis: str = "auto",
    batch_size: int | None = None,
    timeout: float = 900.0,
    seed: int = 0,
    app: str = "fsd",
    faults: str | None = None,
    latency: str | None = None,
    settings: Mapping[str, object] | None = None,
    home: str | os.PathLike[str] | None = None,
    note: Mapping[str, str] | None = None,
    outage: float = OUTAGE_S,
    recovery: str = "on",
    audit_log: str = "on",
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Run ``model`` on ``inputs``, split over the functions of ``provider``, as ``fsd run`` does.

    What to compute:

    - ``model``: a `Model` or a `Graph`; or the path of a model folder, of a Graph Challenge folder, of an ONNX file, or of the folder of an
      imported ONNX model; or ``radixnet:NEURONS:LAYERS[:SEED]``.
    - ``inputs``: real numbers of shape (samples, inputs of the model), at least one sample, finite as float32: a scipy sparse matrix or
      array of any format and dtype, or an array or nested list that numpy can convert, of bool, integers or floats. `run` computes in
      float32. Or the path of an .npz or .tsv file, ``digits``, or ``random:SAMPLES[:DENSITY[:SEED]]``. A text may be a path or a name, a
      `Path` is always a path. `run` does not change ``model`` and ``inputs``. Of an ONNX model: a table of arrays by the names
      of its inputs, of their dtypes and shapes; one array if it has one input; or the path of an .npz or .npy with them.
    - ``engine``: what computes an ONNX model: rows, this project's own engine, which takes only chains of layers; onnx, which is ONNX
      Runtime in the functions; or auto, the default: rows if it takes the model and the inputs, else onnx.
    - ``batch_axis``: for an ONNX model: none if axis 0 of its inputs is not for samples; 0 to refuse a model in which axis 0 is not for
      samples; or auto, the default, which decides by the file.
    - ``batch_size``: the number of samples of a micro-batch, at least 1. Default: all samples, in equal shares for the replicas; fewer
      samples if the memory of a function is too small, or if several stages become faster by smaller micro-batches.

    Where and how:

    - ``provider``: where the functions run: local (the default), or the name of an installed provider, for instance aws, gcp, azure.
    - ``channel``: how workers send activations to each other: queue, object, hybrid, or auto, the default: what the planner chooses.
    - ``workers``: the number of ranks, each of which is one function: at least 1, or auto, the default. auto means ``data_parallel`` x
      ``pipeline_parallel`` x ``tensor_parallel``. If none of these three is given, the planner chooses them for ``workers``, or chooses all
      four, as `make_plan` does for this provider and ``objective``, with the table of ``latency`` or else the provider's own latencies.
      `Result.reason` says why. With ``partition`` block or random, the planner does not split ``workers``: they are tensor parallel. A
      saved partition or a `Partition` already has a number of workers.
    - ``data_parallel``: the number of replicas. Each replica computes some of the micro-batches with the whole model.
    - ``pipeline_parallel``: the number of stages of a replica. Each stage has some of the layers, and passes micro-batches on to the next.
    - ``tensor_parallel``: the number of ranks of a stage. They share the rows of every layer of the stage; with the engine onnx, they share
      the largest nodes of the stage by columns of the weights. If ``workers`` and some of the three numbers are given, the first missing
      one of tensor, data and pipeline is ``workers`` divided by the others.
    - ``branching``: the largest number of functions that one function starts, at least 1. Default: 4.
    - ``partition``: which rank of a replica owns which rows: hypergraph (the default), random, block, the path of a saved partition, or a
      `Partition` for this model, number of stages, and number of workers of one replica.
    - ``objective``: what the exchange of activations minimises: cost, the default (fewer requests), or latency (less waiting).
    - ``seed``: the seed of all random choices, a whole number of at least 0. Default: 0. The same model, workers, method and seed give the
      same partition.
    - ``timeout``: the deadline of the run in seconds, counted from its launch, so staging does not count. Default: 900.
    - ``outage``: how many seconds a service may be unreachable before the run fails. Default: 60.
    - ``recovery``: which workers get a second function. on, the default: workers that die, and with the objective latency also workers that
      are slow or hang; the run then goes on with the function that gets ahead. stragglers: all of these, with any objective. deaths: only
      workers that die. off: none, so a death ends the run.
    - ``audit_log``: on, the default: the run leaves an entry in the audit log of its app, see `read_audit_log`. off: it leaves none.
    - ``app``: the name of the app: a lower-case letter, then up to 39 lower-case letters, digits or hyphens. The names of all its resources
      start with it. Default: fsd. If the app does not exist, `run` makes it, with four slots.
    - ``settings``: the provider's own settings, as in its table of ``fsd.toml``, for instance ``{"memory_mb": 1024}``. Default: none.
    - ``faults``: faults to inject into every service, such as ``duplicate=.1,delay=50ms,seed=1``, or into workers: ``kill=3@70+5@90`` kills
      rank 3 before its layer 70 and rank 5 before its layer 90, ``hang=2@10`` lets rank 2 compute nothing more from its layer 10 on,
      ``slow=1:3`` makes rank 1 compute 3 times as long. Layers count from 1. Default: none.
    - ``latency``: let every request take at least as long as a table of latencies says: ``aws``, ``gcp``, ``azure`` or the path of a
      ``.toml`` file, with options such as ``aws,seed=1,scale=0.5``. Default: none.

    Progress and records:

    - ``home``: the folder for records and computed partitions. Default: ``$FSD_HOME``, else ``~/.fsd``.
    - ``note``: texts by name for the run's record, for instance a description of ``model`` and ``inputs`` if they are not texts.
    - ``progress``: called with each `Progress`, from any thread. An error that it raises ends the run; once all outputs are
      written, it is only a warning.

    Returns the `Result`: the output, the seconds, and the counts of requests and bytes.

    An interrupt (KeyboardInterrupt) stops the workers, removes the run's objects and gives its slot back, within 2 s. A note of the
    exception names the steps that could not be done in that time. In a thread that runs an event loop, as a notebook's, SIGINT raises
    KeyboardInterrupt in the call too, because the loop itself cannot act during the call.

    Raises `InputError` before anything starts if an argument is wrong: of another type, outside its range, or unfit for the model or the
    provider. The line names the argument, the value, and what was expected. Raises `RunFailed` with code, rank and layer if the run
    fails; `DriverError` if a service refused. A failure after the answer is complete, for instance while the record is written, is a
    warning.
    """
    began = time.time()
    channel = arguments.one_of("channel", channel, ("auto", *CHANNELS))
    objective = arguments.one_of("objective", objective, OBJECTIVES)
    sizes = (workers, data_parallel, pipeline_parallel, tensor_parallel)
    split = wished(*sizes)
    branching = arguments.whole("branching", branching, 1)
    batch_size = None if batch_size is None else arguments.whole("batch_size", batch_size, 1)
    timeout, outage = arguments.seconds("timeout", timeout), arguments.seconds("outage", outage)
    seed = arguments.whole("seed", seed)
    recovery = arguments.one_of("recovery", recovery, RECOVERY)
    goes_on = recovery != "off"
    audited = arguments.one_of("audit_log", audit_log, ("on", "off")) == "on"
    wrong = None if faults is None else Faults.parse(arguments.text("faults", faults))
    slowed = None if latency is None else Latency.parse(arguments.text("latency", latency))
    given = {key: os.fsdecode(each) for key, each in (("model", model), ("input", inputs)) if isinstance(each, str | os.PathLike)}
    about, folder = given | arguments.texts("note", note), arguments.home(home)
    report = _guarded(arguments.callback("progress", progress))
    table = arguments.table("settings", settings)
    chosen, provisioner = place(provider, app, table)
    outline = outline_of(provider, table)
    opened = open_run(model, inputs, engine, batch_axis)
    workload: Workload
    work_of: Callable[[Parallel], Work]
    if isinstance(opened.model, Graph):
        given_sizes = sizes if isinstance(split, Parallel) else (1, None, None, None)
        whole = stages_work(opened.model, opened.inputs, *given_sizes, batch_size)
        split = whole.parallel if isinstance(split, Parallel) else split
        workload, work_of = whole.workload, whole.divided
    else:
        network, samples = opened.model, opened.inputs
        found = _of_partition(None if isinstance(split, Parallel) else split, checked(partition), network)
        split = split if isinstance(split, Parallel) else found
        workload = rows = RowWorkload(network, samples)
        notice = partial(_partitioned, report)
        work_of = partial(rows_work, rows, batch_size=batch_size, partition=partition, seed=seed, home=folder, progress=notice)
    if outline is not None and split is not None:
        _check_quota(outline.functions, split.workers if isinstance(split, Parallel) else split, provider)
    if not isinstance(split, Parallel):
        report(Progress("plan", 0, 1))
    wish = Given(
        split=split, channel=None if channel == "auto" else channel, batch_size=batch_size, objective=objective, branching=branching
    )
    decision = decide(workload, provider, table, wish, latency=slowed, home=folder)
    channel, reason = decision.channel, decision.reason
    if reason:
        report(Progress("plan", 1, 1, reason))
    work = work_of(decision.parallel)
    expectation = Expectation(
        work=work,
        provider=provider,
        settings=table,
        channel=channel,
        objective=objective,
        branching=branching,
        recovery=goes_on,
        latency=slowed,
        home=folder,
    )
    if wrong is not None:
        wrong.check(work.parallel.workers)
    job = Job(
        work=work,
        provider=chosen,
        stand_in=chosen.stand_in(),
        channel=channel,
        reason=reason,
        expectation=expectation,
        branching=branching,
        objective=objective,
        faults=wrong.spec() if wrong else None,
        latency=slowed,
        seed=seed,
        timeout_s=timeout,
        outage_s=outage,
        recovery=goes_on,
        stragglers=recovery == "stragglers" or (recovery == "on" and objective == "latency"),
        audit_log=audited,
        began=began,
        note=about,
        home=folder,
        progress=report,
    )
    workers = job.workers
    if outline is not None:
        work.batches(outline.functions, provider)  # refuses what fits no function before anything is made
    with reported(report):
        existing = provisioner.find(app)
        if existing:
            check_engine(existing, work.engine, provider)
            job.admit(existing)  # before it gets more queues
        ranks, slots = (max(workers, existing.ranks), existing.slots) if existing else (workers, SLOTS)
        resources = with_engine(provisioner, work.engine).ensure(app, ranks, slots)
    with _open(chosen, resources) as (objects, invoker):
        _check_quota(invoker.limits, workers, provider)
        if recovery == "stragglers" and (why := obstacle(workers, invoker.limits.concurrency)):
            warn(f"recovery stragglers: no slow worker of this run can be replaced: {why}")
        job.admit(resources)
        try:
            try:
                return job.execute(resources, objects, invoker)
            except DamagedContent as error:
                warn(f"{error}; the client stages the shards and inputs of this run again and starts the run again")
                return job.execute(resources, objects, invoker, again=True)
        except RunFailed as error:
            if isinstance(error, DamagedContent):
                error.message += ", though it was staged again; `fsd clean --keep-records` removes all staged content"
            if advice := chosen.advice(error.message):
                error.message += f"; {advice}"
            raise


def _check_quota(limits: InvokeLimits, workers: int, provider: str) -> None:
    if limits.concurrency is not None and limits.concurrency < workers:
        raise InputError(
            f"workers {workers}: {provider} may run {limits.concurrency} functions at once: "
            f"expected at most {limits.concurrency} workers; use fewer workers or raise this quota"
        )


def _of_partition(split: int | None, partition: Partition | str | os.PathLike[str], model: Model) -> Parallel | int | None:
    """The split that a partition requires: a saved partition has a number of workers, and with block or random, workers share layers."""
    if partition in METHODS:
        return split if split is None or partition == METHODS[0] else parallel(split)
    made = partition if isinstance(partition, Partition) else Partition.load(partition, model)
    return Parallel(pipeline=made.stages, tensor=made.tensor) if split is None else parallel(split)


def check_options(options: Mapping[str, Any], taken: Collection[str]) -> dict[str, Any]:
    """Check arguments of `run` that another function passes on. Returns them by name. ``taken``: arguments that this function sets.

    Raises `InputError` if `run` has no argument of a name, or if the name is in ``taken``.
    """
    known = [name for name in inspect.signature(run).parameters if name not in taken]
    for name in options:
        if name not in known:
            raise InputError(f"{name}: unknown argument; {suggestion(name, known)}")
    return arguments.table("options", options)


def _guarded(progress: Callable[[Progress], None] | None) -> Callable[[Progress], None]:
    """``progress``, but an error that it raises while the client collects the output is only a warning, so that the output is not lost."""

    def guarded(step: Progress) -> None:
        try:
            if progress is not None:
                progress(step)
        except Exception as error:
            if step.phase != "collect":
                raise
            warn(f"progress failed while the output was collected: {type(error).__name__}: {error}")

    return guarded


def _partitioned(report: Callable[[Progress], None], done: int, total: int) -> None:
    report(Progress("partition", done, total))


@contextmanager
def _open(provider: Provider, resources: Resources) -> Iterator[tuple[ObjectDriver, InvokeDriver]]:
    """The client's drivers, closed at the end."""
    objects = provider.objects(resources)
    invoker = provider.invoker(resources)
    try:
        yield objects, invoker
    finally:
        for driver in (invoker, objects):
            try:
                driver.close()
            except Exception as error:  # the answer may be complete: this must not lose it
                warn(f"{driver.service}: the connection could not be closed: {type(error).__name__}: {error}")
