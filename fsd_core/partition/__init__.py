"""Partitions: which rank owns which row of each layer, and which rows the ranks must then send each other."""

from fsd_core.partition.kept import find_partition
from fsd_core.partition.methods import METHODS, partition
from fsd_core.partition.owners import Partition
from fsd_core.partition.plan import ExchangePlan

__all__ = ["METHODS", "ExchangePlan", "Partition", "find_partition", "partition"]
