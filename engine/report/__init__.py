"""A run as a page: one file that opens in a browser with everything in it, or served with data in pieces."""

from saematch.report.contents import Contents
from saematch.report.page import write_report
from saematch.report.serve import Server

__all__ = ["Contents", "Server", "write_report"]
