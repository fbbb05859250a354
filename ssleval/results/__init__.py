"""Results: one JSON file each, its samples beside it, and all that is read out of many of them."""

from ssleval.results.record import Result, Score, comparable, find, read, read_all, read_samples, write

__all__ = ["Result", "Score", "comparable", "find", "read", "read_all", "read_samples", "write"]
