"""The page of a run: one HTML file with everything in it, or a local server that sends data as they are needed."""

from saematch.report.contents import Contents
from saematch.report.page import write_report
from saematch.report.serve import Server

__all__ = ["Contents", "Server", "write_report"]
