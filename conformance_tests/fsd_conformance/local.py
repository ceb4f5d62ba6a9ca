"""The harness of the local provider. It is an example for other providers: it defines all that a harness needs."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fsd_conformance.harness import Harness, Kind
from fsd_core.driver import Message, MessageDriver, Provider, Rejected, Resources
from fsd_core.wrappers.around import AroundMessages

__all__ = ["HARNESSES", "LocalHarness"]


class LocalHarness(Harness):
    """The local provider in a new folder."""

    name = "local"
    few: Mapping[str, object] | None = {"concurrency": 2}

    def provider(self) -> Provider:
        """The provider."""
        from fsd_local import PROVIDER

        return PROVIDER

    def settings(self, folder: Path) -> Mapping[str, object]:
        """Apps below the suite's folder, with a short lease."""
        return {"root": str(folder), "lease_s": 1.0}

    def finds(self, kind: Kind, native: Any, resources: Resources, what: str) -> bool:
        """Looks for folders, and for the host's process."""
        match kind:
            case "messages":
                return Path(native, "0", "new").is_dir()
            case "objects":
                return Path(native, what.replace("/", ",/") + "=").is_file()
            case "functions":
                return native.poll() is None and b"fsd_local.host" in Path(f"/proc/{native.pid}/cmdline").read_bytes()

    @contextlib.contextmanager
    def refusing(self, resources: Resources, *, direct: bool = False) -> Iterator[tuple[MessageDriver, threading.Event]]:
        """A publish fails because no file descriptor is free; an ack fails because a folder has the name of the delivery's file."""
        refuse = threading.Event()
        with contextlib.closing(self.provider().messages(resources, 0)) as driver:
            yield _Refusing(driver, refuse), refuse


class _Refusing(AroundMessages):
    def __init__(self, driver: MessageDriver, refuse: threading.Event) -> None:
        super().__init__(driver)
        self._refuse = refuse

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        if not self._refuse.is_set():
            return super().publish(messages)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            return super().publish(messages)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        held = [Path(str(self.native()), str(rank), "leased", str(token)) for token in tokens[1::2] if self._refuse.is_set()]
        for file in held:
            os.rename(file, self._aside(file))
            file.mkdir()
        try:
            return super().ack(rank, tokens)
        finally:
            for file in held:
                file.rmdir()
                os.rename(self._aside(file), file)

    @staticmethod
    def _aside(file: Path) -> Path:
        return file.parents[1] / "tmp" / file.name


HARNESSES: Mapping[str, type[Harness]] = {LocalHarness.name: LocalHarness}
