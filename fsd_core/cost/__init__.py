"""Bills: a run's requests, bytes and function time, multiplied by the dated prices of a tariff."""

from fsd_core.cost.bill import Bill, Line, bill
from fsd_core.cost.tariff import Price, Tariff, default_tariff, load, names, tariff_of_run
from fsd_core.cost.usage import Usage

__all__ = ["Bill", "Line", "Price", "Tariff", "Usage", "bill", "default_tariff", "load", "names", "tariff_of_run"]
