"""The program that every function runs. A platform's handler calls `handle`; its host reports a function that died by `report_exit`."""

from fsd_core.protocol.abort import report_exit
from fsd_core.worker.program import handle

__all__ = ["handle", "report_exit"]
