"""What all commands share: options made from `fsd_core.config.Settings`, and a class that prints only the answer on standard output."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import click

from fsd_core import config, providers
from fsd_core.cli.screen import Screen
from fsd_core.common.fields import Kind
from fsd_core.common.logs import shown
from fsd_core.config import ANY, KINDS, Settings
from fsd_core.errors import InputError

__all__ = ["Checked", "Command", "Group", "check_provider", "emulated", "emulator_name", "with_settings"]

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
            settings = config.load(given, config_file, names=names, providers=tuple(providers.installed()))
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
def emulated(settings: Settings, tell: Callable[[str], None], *, start: bool = False) -> Iterator[Settings]:
    """Within the block, the provider's SDK uses the emulator that ``--emulator`` asks for. Yields settings for it.

    If the emulator is not running, ``start`` starts it for the block. Without ``start``, the function raises `InputError`. ``tell``
    receives lines of progress.
    """
    if not settings.emulator:
        yield settings
        return
    from fsd_conformance import emulators

    provider, name = settings.provider, emulator_name(settings)
    running = emulators.state(provider)
    if not start and not (running and running.alive() and name in (None, running.name)):
        words = f"{provider} --name {name}" if name else provider
        raise InputError(f"--emulator: expected a running emulator; start one with: fsd emulators up {words}")
    with emulators.use(provider, name, tell) as used:
        tables = {**settings.tables, provider: {**used.settings, **settings.table()}}
        yield attrs.evolve(settings, tables=tables)
