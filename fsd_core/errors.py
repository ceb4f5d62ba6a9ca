"""What can go wrong, in one tree.

FsdError                anything this project raises on purpose; ``exit_code`` is what the command returns
├── InputError          a file, flag, value or message is wrong: says which, its value, what would be right (exit 2)
├── CheckFailed         a check that the user asked for did not hold (exit 1)
└── RunFailed           a run ended without an answer: carries code, rank, layer (exit 3)
    ├── DamagedContent  staged content is gone or damaged: carries its key
    └── DriverError     a service refused: carries the service's own error as ``__cause__``
"""

from __future__ import annotations

from fsd_core.driver import Code

__all__ = ["CheckFailed", "DamagedContent", "DriverError", "FsdError", "InputError", "RunFailed"]


class FsdError(Exception):
    """Base of every error raised on purpose. ``exit_code`` is the command's exit code."""

    exit_code = 3


class InputError(FsdError):
    """Something the user gave is wrong. The text is one line: the thing, the value, what would be right."""

    exit_code = 2


class CheckFailed(FsdError):
    """A check the user asked for did not hold, for instance ``--truth``."""

    exit_code = 1


class RunFailed(FsdError):
    """A run ended without an answer.

    ``rank`` and ``layer`` (1-based) say where, as far as known. ``str(error)`` is one line for people.
    """

    def __init__(self, code: Code, message: str, *, rank: int | None = None, layer: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.rank = rank
        self.layer = layer
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        """So that it crosses processes: the default would call the class with the message alone."""
        return type(self), (self.code, self.message), vars(self)

    def __str__(self) -> str:
        where = [f"rank {self.rank}"] if self.rank is not None else []
        where += [f"layer {self.layer}"] if self.layer is not None else []
        return ": ".join([self.code.name, *([", ".join(where)] if where else []), self.message])


class DamagedContent(RunFailed):
    """The staged object ``key`` is gone (`Code.NOT_FOUND`) or damaged (`Code.INVALID`): once it is staged again, the run can succeed."""

    def __init__(self, code: Code, message: str, key: str = "", *, rank: int | None = None, layer: int | None = None) -> None:
        super().__init__(code, message, rank=rank, layer=layer)
        self.key = key


class DriverError(RunFailed):
    """A service refused or failed; the SDK's own error is the ``__cause__``."""
