"""HTML pages of a comparison or of one run, in one file: no scripts, no requests. matplotlib draws the charts as inline SVG."""

from fsd_core.report.page import check_page, comparison_page, run_page
from fsd_core.report.record import find_record, read_record
from fsd_core.report.stragglers import Straggler, stragglers

__all__ = ["Straggler", "check_page", "comparison_page", "find_record", "read_record", "run_page", "stragglers"]
