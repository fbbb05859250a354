"""Results to one page that people look at: a file that needs no server and asks no network.

Everything a reader can sort, filter or open is computed here and embedded as data; the scripts of the
page draw and count, and make no statistics of their own.
"""

from ssleval.display.report.content import Options, write_report

__all__ = ["Options", "write_report"]
