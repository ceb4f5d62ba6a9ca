"""Settings of the command: flags win over ``FSD_*`` variables, and these over ``fsd.toml``.

Each `key` of `Settings` is a key of the file, a variable (``FSD_BATCH_SIZE``) and a flag (``--batch-size``). The file has a
table for each installed provider, which goes to the provider without a check here. Paths are relative to the current folder, even if the
file is in another folder. ``FSD_HOME``, ``FSD_DEBUG`` and ``FSD_CONFIG`` are variables only.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from fsd_core.common import arguments
from fsd_core.common.fields import Kind, boolean, choice, integer, key, keys, nearest, number, read, table, text
from fsd_core.common.home import expanded
from fsd_core.common.textfile import read_text
from fsd_core.errors import InputError
from fsd_core.partition import AUTO, Parallel, wished
from fsd_core.protocol.runconfig import CHANNELS, ENGINES, OBJECTIVES, RECOVERY
from fsd_core.providers.app_name import APP_NAME
from fsd_core.providers.registry import installed

__all__ = ["ANY", "BOOLEAN", "FILE", "KINDS", "PATH", "Settings", "load", "read_settings"]

FILE = "fsd.toml"
ANY = "auto"  # the value of `Settings.emulator` if the user asks for an emulator and names none
_LIKENESS = 0.85  # of a variable that is taken for a mistyped one: other programs may have variables that start with FSD_ too

BOOLEAN = boolean()
PATH = Kind(
    "a path",
    lambda value: isinstance(value, str) and value != "" and "\0" not in value,
    lambda value: str(expanded(value)),
    metavar="PATH",
)
_TIME = number(0, 1e9, "seconds", above=True)
_METHOD = text("hypergraph, random, block, or the path of a partition", metavar="hypergraph|random|block|PATH")


def _emulator(word: str) -> bool | str:
    try:
        return bool(BOOLEAN.parse(word))
    except ValueError:
        return word


_COUNT = integer(1)
_WORKERS = Kind(
    f"{_COUNT.expected}, or {AUTO}",
    lambda value: value == AUTO or _COUNT.holds(value),
    lambda value: value if value == AUTO else _COUNT.becomes(value),
    lambda word: word if word == AUTO else int(word),
    "N|auto",
)


_EMULATOR = Kind(
    "true, false, or an emulator's name",
    lambda value: isinstance(value, bool | str) and value != "",
    lambda value: (ANY if value else None) if isinstance(value, bool) else value,
    _emulator,
    "NAME",
)


@attrs.frozen(kw_only=True)
class Settings:
    """All keys with their defaults. `None` means: all samples in one micro-batch (``batch_size``), the cloud itself (``emulator``)."""

    provider: str = key(text(), default="local", help="Where functions run: local, or a cloud. fsd doctor lists the installed providers.")
    channel: str = key(
        choice("auto", *CHANNELS), default="auto", help="How workers send activations to each other: auto is what fsd plan would choose."
    )
    workers: int | str = key(
        _WORKERS, default=AUTO, help="Number of workers. auto: the product of the three --...-parallel, or what fsd plan would choose."
    )
    data_parallel: int | None = key(_COUNT, default=None, help="Replicas of the model: each computes some of the micro-batches.")
    pipeline_parallel: int | None = key(_COUNT, default=None, help="Stages of a replica: each has some of the layers.")
    tensor_parallel: int | None = key(
        _COUNT,
        default=None,
        help="Workers of a stage: each has some of the rows of every layer (default: --workers divided by replicas and stages).",
    )
    branching: int = key(integer(1), default=4, help="Largest number of functions that one function starts, after the first 128.")
    partition: str = key(_METHOD, default="hypergraph", help="How the rows of the model are divided among the workers.")
    objective: str = key(choice(*OBJECTIVES), default="cost", help="cost saves requests; latency saves time.")
    engine: str = key(
        choice("auto", *ENGINES),
        default="auto",
        help="What computes an ONNX model: rows takes only chains of layers, onnx any model; auto: rows if it takes the model, else onnx.",
    )
    batch_axis: str = key(
        choice("auto", "0", "none"),
        default="auto",
        help="For an ONNX model: none if axis 0 of its inputs is not for samples; 0 to refuse such a model; auto: as the file says.",
    )
    batch_size: int | None = key(
        integer(1),
        default=None,
        help="Samples of a micro-batch (default: all samples, or fewer if replicas, stages or the memory limit require it).",
    )
    timeout: float = key(
        _TIME,
        default=900.0,
        help="Longest time of a run in seconds, from its first launch.",
    )
    outage: float = key(_TIME, default=60.0, help="Seconds that a service may be unreachable before the run fails.")
    recovery: str = key(
        choice(*RECOVERY),
        default="on",
        help="Which workers are replaced. on: workers that die, and with --objective latency also slow workers; stragglers: both, with any "
        "objective; deaths: only workers that die; off: none, so a death ends the run.",
    )
    audit_log: str = key(choice("on", "off"), default="on", help="on: every run leaves an entry in the audit log of its app (fsd audit).")
    seed: int = key(integer(0), default=0, help="Seed of all random choices. A second command with the same seed makes the same choices.")
    app: str = key(APP_NAME, default="fsd", help="Name of the app: the names of all its resources start with it.")
    emulator: str | None = key(_EMULATOR, default=None, help="Use an emulator of the cloud on this machine instead of the cloud.")
    faults: str | None = key(
        text(),
        default=None,
        help="Inject faults into every service, for instance duplicate=.1,delay=50ms,seed=1, or into workers: kill=RANK@LAYER, "
        "hang=RANK@LAYER, slow=RANK:FACTOR; + joins several, for instance kill=3@70+5@90.",
    )
    latency: str | None = key(
        text(metavar="TABLE[,seed=N][,scale=X]"),
        default=None,
        help="Table of latencies by which a run delays requests and fsd plan predicts: a name, for instance aws,seed=1, or a .toml file.",
    )
    output: str | None = key(
        PATH,
        default=None,
        help="Write the output to this .npz: a scipy CSR matrix, samples by neurons; with the engine onnx, an array for each output.",
    )
    truth: str | None = key(
        PATH,
        default=None,
        help="Check the result: a file that lists the samples that should end with a nonzero activation, by number from 1.",
    )
    expect: str | None = key(PATH, default=None, help="Check the result: an .npz or .npy with the expected values.")
    rtol: float = key(number(0), default=1e-4, help="Largest accepted difference from --expect, as a share of the expected value.")
    atol: float = key(
        number(0), default=1e-5, help="Largest accepted difference from --expect, added to the difference that --rtol accepts."
    )
    tariff: str | None = key(
        text(metavar="NAME"),
        default=None,
        help="Prices of the bill: a name from fsd tariff list, or a .toml file of your own (default: the provider's tariff).",
    )
    json: bool = key(BOOLEAN, default=False, help="Print the answer as one JSON object on standard output.")
    verbose: int = key(
        integer(0, 2),
        default=0,
        help="Log lines on standard error: -v from level info, -vv from level debug. With -vv, workers also keep debug lines (fsd logs).",
    )
    tables: Mapping[str, Mapping[str, object]] = attrs.field(factory=dict)

    @property
    def split(self) -> Parallel | int | None:
        """The split, if a size is given; else the number of workers; `None`: auto. Raises `InputError` if workers and sizes contradict."""
        return wished(self.workers, self.data_parallel, self.pipeline_parallel, self.tensor_parallel)

    def table(self) -> Mapping[str, object]:
        """The file's table for the chosen provider."""
        return self.tables.get(self.provider, {})


KINDS = keys(Settings)


def load(
    flags: Mapping[str, str | None] | None = None,
    config: str | Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    names: Mapping[str, str] | None = None,
) -> Settings:
    """The settings of a command. The file is ``config``, else ``FSD_CONFIG``, else ``fsd.toml`` of the current folder if it exists.

    ``flags``: the text of each key's flag, `None` if the user gave no flag; ``names``: the flag of each key as errors show it.
    Raises `InputError` on an unknown key or a wrong value; the line names the file, variable or flag, the value and what was expected.
    """
    path = config or environ.get("FSD_CONFIG") or None
    settings = _of_file(expanded(path or FILE), path is not None)
    settings = attrs.evolve(settings, **_variables(environ))
    given = {name: word for name, word in (flags or {}).items() if word is not None}
    written = {name: f"--{name.replace('_', '-')}" for name in given} | dict(names or {})
    return attrs.evolve(settings, **{name: KINDS[name].read_text(word, f"{written[name]} ") for name, word in given.items()})


def read_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """The settings that the command would use: those of ``FSD_*`` variables, else of a file such as ``fsd.toml``, else the defaults.

    - ``path``: the file. Default: ``$FSD_CONFIG``, else ``fsd.toml`` of the current folder if it exists.

    The fields have the names of the flags; ``table()`` gives the provider's own settings. Raises `InputError` on an unknown key or a wrong
    value, and if ``path`` does not exist.
    """
    file = None if path is None else arguments.path("path", path)
    return load(config=file)


def _of_file(path: Path, required: bool) -> Settings:
    if not required and not os.path.lexists(path):
        return Settings()
    try:
        content = tomllib.loads(read_text(path, str(path)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is not TOML: {error}") from error
    providers = installed()
    for name in content.keys() - KINDS.keys() - set(providers):
        if isinstance(content[name], dict):
            close = nearest(name, providers)
            meant = f"did you mean [{close}]? " if close else ""
            raise InputError(
                f"{path}: [{name}]: provider {name!r} is not installed; {meant}expected tables of {', '.join(providers) or 'none'}"
            )
    settings = read(Settings, content, f"{path}: ", known=providers)
    tables = {
        name: MappingProxyType(table(f"a table, [{name}]").check(content[name], f"{path}: {name} = "))
        for name in providers
        if name in content
    }
    return attrs.evolve(settings, tables=MappingProxyType(tables))


def _variables(environ: Mapping[str, str]) -> dict[str, Any]:
    """The values of the variables that are set and not empty, by their keys."""
    values: dict[str, Any] = {}
    for variable, word in environ.items():
        name = variable.removeprefix("FSD_").lower()
        if not variable.startswith("FSD_") or not word:
            continue
        if name in KINDS:
            values[name] = KINDS[name].read_text(word, f"{variable}=")
        elif meant := nearest(name, KINDS, _LIKENESS):
            raise InputError(f"{variable}: unknown variable; did you mean FSD_{meant.upper()}?")
    return values
