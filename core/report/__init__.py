"""Reports on finished runs: statistics, figures, and one HTML file that a reviewer would accept."""

from didact.core.report.build import build_report, write_report
from didact.core.report.cells import Cell, Cells, find_cells
from didact.core.report.comparison import compared
from didact.core.report.summary import print_summary
from didact.core.report.view import view

__all__ = [
    "Cell",
    "Cells",
    "build_report",
    "compared",
    "find_cells",
    "print_summary",
    "view",
    "write_report",
]
