"""Results as one HTML page that needs no server and no network.

Everything a reader can sort, filter or open is computed here and embedded as data. The scripts of the page
draw and count, and compute no statistics.
"""

from ssleval.display.report.content import Options, write_report

__all__ = ["Options", "write_report"]
