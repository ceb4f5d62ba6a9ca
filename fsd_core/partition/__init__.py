"""Partitions: a partition assigns each row of each layer to a rank, and determines the rows that the ranks have to send each other."""

from fsd_core.partition.estimate import Estimate, estimate
from fsd_core.partition.kept import checked, find_partition
from fsd_core.partition.layout import AUTO, Parallel, parallel, wished
from fsd_core.partition.methods import METHODS, partition
from fsd_core.partition.owners import Partition
from fsd_core.partition.plan import ExchangePlan
from fsd_core.partition.stages import Profile, profile, worthwhile

__all__ = [
    "AUTO",
    "METHODS",
    "Estimate",
    "ExchangePlan",
    "Parallel",
    "Partition",
    "Profile",
    "checked",
    "estimate",
    "find_partition",
    "parallel",
    "partition",
    "profile",
    "wished",
    "worthwhile",
]
