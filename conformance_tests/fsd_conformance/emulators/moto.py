"""AWS with moto: quick and small; queues, topics and objects in the memory of one process."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

from fsd_conformance.emulators.aws import Aws
from fsd_conformance.emulators.process import Server

__all__ = ["Moto", "MotoServer"]


class MotoServer(Server):
    """`moto_server`. Its memory grows with every published byte."""

    name = "moto"
    health = "/moto-api/config"
    grace_s = 0.0

    def command(self) -> Sequence[str]:
        """The command line, in this interpreter."""
        return [sys.executable, "-m", "fsd_conformance.emulators.moto_server", "-H", "127.0.0.1", "-p", str(self.port)]


class Moto(Aws):
    """moto and the local Lambda."""

    name = "moto"
    # moto answers a binary attribute from a topic to a queue with 500.
    settings: ClassVar[Mapping[str, object]] = {**Aws.settings, "text": True}
    service = MotoServer
