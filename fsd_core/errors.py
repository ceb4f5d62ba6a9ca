"""The errors that this project raises on purpose, in one tree.

FsdError                base of all; ``exit_code`` is the exit code of the command
├── InputError          an input of the user is wrong: a file, a flag, an argument, a variable (exit code 2)
├── CheckFailed         a check that the user requested failed (exit code 1)
└── RunFailed           a run ended without an output; has ``code``, ``rank`` and ``layer`` (exit code 3)
    ├── DamagedContent  a staged object is missing or damaged; has its ``key``
    └── DriverError     a service refused a request or failed; the SDK's own error is its ``__cause__``
"""

from __future__ import annotations

from fsd_core.driver import Code

__all__ = ["CheckFailed", "DamagedContent", "DriverError", "FsdError", "InputError", "RunFailed", "one_line"]


def one_line(text: str) -> str:
    """The text as one line that every stream can take: lines are joined, and control characters and unpaired surrogates are escaped."""
    joined = " ".join(line.strip() for line in text.splitlines())
    return joined if joined.isprintable() else "".join(each if each.isprintable() else _escaped(each) for each in joined)


def _escaped(letter: str) -> str:
    return " " if letter.isspace() else letter.encode("unicode_escape").decode()


class FsdError(Exception):
    """Base of every error raised on purpose. Its message is one line. ``exit_code`` is the exit code of the command."""

    exit_code = 3

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))  # the message may hold a path with any characters, or the text of an SDK


class InputError(FsdError):
    """An input of the user is wrong. The message is one line that names the input, the value found, and what was expected."""

    exit_code = 2


class CheckFailed(FsdError):
    """A check that the user requested failed, for instance ``--truth``."""

    exit_code = 1


class RunFailed(FsdError):
    """A run ended without an output.

    ``rank`` and ``layer`` (counted from 1) name the place of the failure; each is `None` if unknown. ``str(error)`` is one line for people.
    """

    def __init__(self, code: Code, message: str, *, rank: int | None = None, layer: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.rank = rank
        self.layer = layer
        self.message: str = self.args[0]

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with all fields: by default an exception is pickled with its message alone."""
        return type(self), (self.code, self.message), vars(self)

    def __str__(self) -> str:
        where = [f"rank {self.rank}"] if self.rank is not None else []
        where += [f"layer {self.layer}"] if self.layer is not None else []
        return ": ".join([self.code.name, *([", ".join(where)] if where else []), self.message])


class DamagedContent(RunFailed):
    """The staged object ``key`` is missing (`Code.NOT_FOUND`) or damaged (`Code.INVALID`). The remedy is to stage it again."""

    def __init__(self, code: Code, message: str, key: str = "", *, rank: int | None = None, layer: int | None = None) -> None:
        super().__init__(code, message, rank=rank, layer=layer)
        self.key = key


class DriverError(RunFailed):
    """A service refused a request or failed. The SDK's own error is the ``__cause__``."""
