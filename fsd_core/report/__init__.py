"""Comparisons of runs, and HTML pages of a comparison or of one run, in one file: no scripts, no requests. matplotlib draws the charts."""

from fsd_core.report.accuracy import Accuracy, prediction_accuracy
from fsd_core.report.compare import Comparison
from fsd_core.report.page import check_page, comparison_page, run_page
from fsd_core.report.past import PastRun, past_runs
from fsd_core.report.record import find_record, read_record
from fsd_core.report.stragglers import Straggler, stragglers
from fsd_core.report.writing import Report, write_comparison, write_report

__all__ = [
    "Accuracy", "Comparison", "PastRun", "Report", "Straggler", "check_page", "comparison_page", "find_record", "past_runs",
    "prediction_accuracy", "read_record", "run_page", "stragglers", "write_comparison", "write_report",
]  # fmt: skip
