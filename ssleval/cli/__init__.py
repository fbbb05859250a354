"""The command line, one command a file."""

from ssleval.cli.app import main

__all__ = ["main"]
