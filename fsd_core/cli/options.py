"""What all commands share: options made from `fsd_core.config.Settings`, and a class that prints only the answer on standard output."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import click

from fsd_core import config, providers
from fsd_core.cli.screen import Screen, Show
from fsd_core.common.fields import Kind
from fsd_core.common.logs import shown
from fsd_core.config import ANY, KINDS, Settings
from fsd_core.errors import InputError

if TYPE_CHECKING:
    from fsd_core import Progress

__all__ = ["SPLIT", "Checked", "Command", "Group", "as_flags", "check_provider", "emulated", "emulator_name", "reporting", "with_settings"]

SPLIT = ("workers", "data_parallel", "pipeline_parallel", "tensor_parallel")  # the arguments that say how a run is split

_FIELDS = attrs.fields_dict(Settings)
_Callback = Callable[..., None]


class Command(click.Command):
    """A command that prints only its answer on standard output."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """``--emulator`` takes a value only after ``=``, so that it can stand before an argument."""
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [f"{arg}={ANY}" if arg == "--emulator" and i < end else arg for i, arg in enumerate(args)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, see `Screen.guarded`."""
        with ctx.find_object(Screen).guarded():  # type: ignore[union-attr]  # `main` gives each context a Screen
            return super().invoke(ctx)


class Group(click.Group):
    """A group of `Command` objects."""

    command_class = Command


class Checked(click.ParamType[Any]):
    """A parameter type of click that reads a value by a `Kind`."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.name = kind.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value of a flag's text. Raises `InputError` if it is wrong."""
        return self.kind.read_text(value, f"{param.opts[0] if param else ''} ") if isinstance(value, str) else value


def with_settings(*keys: str, flags: Mapping[str, str] | None = None) -> Callable[[_Callback], _Callback]:
    """Give a command the flags of these keys of `Settings`, ``--config``, ``--json`` and ``-v``.

    The flag of a key is ``--KEY`` with hyphens, unless ``flags`` maps the key to another flag.

    The command is called with its `Screen`, the `Settings`, and its own arguments.
    """
    names = {key: (flags or {}).get(key, f"--{key.replace('_', '-')}") for key in (*keys, "json", "verbose")}

    def wrap(command: _Callback) -> _Callback:
        @functools.wraps(command)
        def call(config_file: str | None, **arguments: Any) -> None:
            screen = click.get_current_context().find_object(Screen)
            assert screen is not None
            given = {key: arguments.pop(key) for key in names}
            settings = config.load(given, config_file, names=names)
            screen.json = settings.json
            with shown(settings.verbose):
                command(screen, settings, **arguments)

        option = click.option(
            "--config", "config_file", metavar="FILE", help=f"File of settings (default: {config.FILE} in the current folder)."
        )
        decorated: _Callback = option(call)
        for key in reversed(names):
            decorated = _option(key, names[key])(decorated)
        return decorated

    return wrap


def _option(key: str, flag: str) -> Callable[[_Callback], _Callback]:
    field, kind = _FIELDS[key], KINDS[key]
    shows = type(field.default) in (int, float) and key != "verbose"
    text = field.metadata["help"] + (f"  [default: {field.default:g}]" if shows else "")
    text += f"  [default: {field.default}]" if isinstance(field.default, str) else ""
    if key == "emulator":
        return click.option(flag, key, metavar="[=NAME]", help=text)
    if key == "verbose":
        return click.option("-v", flag, key, count=True, callback=lambda _, __, count: str(min(count, 2)) if count else None, help=text)
    if kind is config.BOOLEAN:
        return click.option(flag, key, flag_value="true", default=None, help=text)
    return click.option(flag, key, metavar=kind.metavar, help=text)


def check_provider(settings: Settings) -> None:
    """Raise `InputError` if the provider is not installed, or has no emulator of the name in ``settings.emulator``."""
    providers.find(settings.provider)
    if settings.emulator:
        from fsd_conformance import emulators

        emulators.find(settings.provider, emulator_name(settings))


def emulator_name(settings: Settings) -> str | None:
    """The name of the emulator that the user asks for; `None` means the running emulator, else the provider's default emulator."""
    return None if settings.emulator == ANY else settings.emulator


@contextlib.contextmanager
def emulated(settings: Settings, show: Show, *, start: bool = False) -> Iterator[Settings]:
    """Within the block, the provider's SDK uses the emulator that ``--emulator`` asks for. Yields settings for it.

    If the emulator is not running, ``start`` starts it for the block. Without ``start``, the function raises `InputError`.
    """
    if not settings.emulator:
        yield settings
        return
    from fsd_core.machine.emulators import emulator

    provider = settings.provider
    with contextlib.ExitStack() as stack:
        with as_flags("emulator"):
            given = emulator(provider, emulator_name(settings), settings=settings.table(), start=start, progress=reporting(show))
            used = stack.enter_context(given)
        yield attrs.evolve(settings, tables={**settings.tables, provider: used})


@contextlib.contextmanager
def as_flags(*names: str) -> Iterator[None]:
    """Within the block, an `InputError` about an argument of the Python API names the flag: ``out x: ...`` becomes ``--out x: ...``."""
    try:
        yield
    except InputError as error:
        pattern = rf"(^|: | in | x |; use | expected )({'|'.join(names)})(?=[ :])"
        raise InputError(re.sub(pattern, lambda found: f"{found[1]}--{found[2].replace('_', '-')}", str(error))) from error


def reporting(show: Show) -> Callable[[Progress], None]:
    """The callback of the Python API that shows progress on the screen."""
    return lambda progress: show(progress.phase, progress.done, progress.total, progress.text)
