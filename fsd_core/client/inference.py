"""`run`: what it is given is checked, what it needs is made, and a `Job` does the rest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fsd_core.client.job import Job, Progress
from fsd_core.client.result import Result, warn
from fsd_core.common import arguments
from fsd_core.driver import InvokeDriver, Provider, Resources
from fsd_core.errors import DamagedContent, InputError, RunFailed
from fsd_core.partition import Partition, find_partition
from fsd_core.providers.app_name import check_app
from fsd_core.providers.registry import find
from fsd_core.storage.retry import OUTAGE_S
from fsd_core.wrappers.faults import Faults

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from fsd_core.model import Model

__all__ = ["CHANNELS", "OBJECTIVES", "run"]

CHANNELS = ("queue", "object", "hybrid")
OBJECTIVES = ("cost", "latency")
SLOTS = 4


def run(
    model: Model | str | os.PathLike[str],
    inputs: Any,
    *,
    provider: str = "local",
    channel: str = "auto",
    workers: int = 8,
    branching: int = 4,
    partition: str | os.PathLike[str] | Partition = "hypergraph",
    objective: str = "cost",
    batch_size: int | None = None,
    timeout: float = 900.0,
    seed: int = 0,
    app: str = "fsd",
    faults: str | None = None,
    settings: Mapping[str, object] | None = None,
    home: str | os.PathLike[str] | None = None,
    note: Mapping[str, str] | None = None,
    outage: float = OUTAGE_S,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Run ``model`` on ``inputs``, its layers split over ``workers`` functions of ``provider``.

    ``model``: a `Model`, or what MODEL of the command may be. ``inputs``: (samples, width) as scipy sparse matrix of any format, as
    anything that numpy makes an array of real numbers of, or what INPUT of the command may be. A `Path` is a file or folder, a text may
    be a name as well. What is given stays as it is. ``channel``: auto, queue, object or hybrid. ``partition``: a method, a path, or a
    `Partition`. ``batch_size``: samples at a time (default: all, fewer where the functions' memory needs it). ``timeout``:
    seconds, from the launch on. ``settings``: the provider's own. ``home``: where records and caches live (default ``$FSD_HOME``
    or ``~/.fsd``). ``note``: kept in the run's record, for instance names of ``model`` and ``inputs`` where these are no texts.
    ``outage``: how many seconds a service may be unreachable. ``progress``: called from any thread.

    An interrupt (KeyboardInterrupt) stops the workers and gives back what the run held, within 2 s; where that is not enough, a
    note of the exception says what is left.

    An error that ``progress`` raises ends the run, unless the output is being collected by then.

    Raises `InputError` before anything started where an argument is wrong, else `RunFailed` with code, rank and layer. What fails
    once the answer is there, such as writing the run's record, is a warning.
    """
    began = time.time()
    channel = arguments.one_of("channel", channel, ("auto", *CHANNELS))
    objective = arguments.one_of("objective", objective, OBJECTIVES)
    workers, branching = arguments.whole("workers", workers, 1), arguments.whole("branching", branching, 1)
    batch_size = None if batch_size is None else arguments.whole("batch_size", batch_size, 1)
    timeout, outage = arguments.seconds("timeout", timeout), arguments.seconds("outage", outage)
    seed = arguments.whole("seed", seed)
    spec = None if faults is None else Faults.parse(arguments.text("faults", faults)).spec()
    check_app(arguments.text("app", app))
    given = {key: os.fsdecode(each) for key, each in (("model", model), ("input", inputs)) if isinstance(each, str | os.PathLike)}
    kept, folder = given | arguments.texts("note", note), arguments.home(home)
    tell = _telling(arguments.callback("progress", progress))
    chosen = find(arguments.text("provider", provider))
    provisioner = chosen.provisioner(arguments.table("settings", settings))
    job = Job(
        model=_model(model),
        provider=chosen,
        stand_in=chosen.stand_in(),
        channel="hybrid" if channel == "auto" else channel,
        workers=workers,
        branching=branching,
        objective=objective,
        faults=spec,
        seed=seed,
        note=kept,
        home=folder,
        began=began,
        timeout=timeout,
        outage=outage,
        tell=tell,
    )
    samples = _inputs(inputs, job.model)
    parts, label = find_partition(
        partition, job.model, workers, seed, job.home, lambda done, total: tell(Progress("partition", done, total))
    )
    there = provisioner.find(app)
    if there:  # what is refused makes no more queues
        job.admit(there)
    resources = provisioner.ensure(app, max(workers, there.ranks), there.slots) if there else provisioner.ensure(app, workers, SLOTS)
    with _open(job.provider, resources) as (objects, invoker):
        limits = invoker.limits
        if limits.concurrency is not None and limits.concurrency < workers:
            raise InputError(
                f"workers {workers}: {provider} may run {limits.concurrency} functions at once; use fewer workers or raise that quota"
            )
        job.admit(resources)
        try:
            try:
                return job.execute(samples, parts, label, resources, objects, invoker, batch_size)
            except DamagedContent as error:
                warn(f"{error}: what is staged of this model and input is staged again, and the run begins anew")
                return job.execute(samples, parts, label, resources, objects, invoker, batch_size)
        except RunFailed as error:
            if isinstance(error, DamagedContent):
                error.message += ", though it was staged again; `fsd clean --keep-records` removes all that is staged"
            if hint := job.provider.advice(error.message):
                error.message += f"; {hint}"
            raise


def _telling(progress: Callable[[Progress], None] | None) -> Callable[[Progress], None]:
    """``progress``, its errors warnings from when output is collected: the workers are done by then, and were paid for."""

    def tell(step: Progress) -> None:
        try:
            if progress is not None:
                progress(step)
        except Exception as error:
            if step.phase != "collect":
                raise
            warn(f"progress failed while the output was collected: {type(error).__name__}: {error}")

    return tell


def _model(model: Any) -> Model:
    from fsd_core.model import Model, open_model

    return model if isinstance(model, Model) else open_model(model)


def _inputs(inputs: Any, model: Model) -> csr_matrix:
    """Inputs as scipy CSR float32 (samples, width), checked, and a copy of what was given."""
    if isinstance(inputs, str | os.PathLike):
        from fsd_core.model.inputs import open_inputs

        return open_inputs(inputs, model.inputs)
    matrix = arguments.matrix("inputs", inputs, model.inputs)
    if matrix.shape[0] == 0:
        raise InputError("inputs have no samples: at least one is needed")
    return matrix


@contextmanager
def _open(provider: Provider, resources: Resources) -> Iterator[tuple[Any, InvokeDriver]]:
    """The client's drivers, closed at the end."""
    objects = provider.objects(resources)
    invoker = provider.invoker(resources)
    try:
        yield objects, invoker
    finally:
        for driver in (invoker, objects):
            try:
                driver.close()
            except Exception as error:  # it must not cost the answer
                warn(f"{driver.service}: the connection could not be closed: {type(error).__name__}: {error}")
