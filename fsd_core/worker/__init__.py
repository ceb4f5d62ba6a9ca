"""The program that every function runs. A platform's handler calls `handle`; a host that sees a function die calls `report_exit`."""

from fsd_core.protocol.abort import report_exit
from fsd_core.worker.program import handle

__all__ = ["handle", "report_exit"]
