"""The report of a run: one self-contained HTML page, and its figures as SVG files beside it.

One module per section of the page, named after its figures: ``map_matrix``, ``precision_recall``,
``projection``, ``retrieval``, ``training``. ``page`` puts them together.
"""

from drcl.report.data import ReportData
from drcl.report.page import write_report

__all__ = ["ReportData", "write_report"]
