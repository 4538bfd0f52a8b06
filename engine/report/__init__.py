"""Pages: that of a run, as one HTML file or from a local server, and that of a comparison of SAEs."""

from saematch.report.comparison import write_comparison
from saematch.report.contents import Contents
from saematch.report.page import write_report
from saematch.report.serve import Server

__all__ = ["Contents", "Server", "write_comparison", "write_report"]
