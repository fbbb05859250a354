"""Timed ratios: each module compares ours with a bound in one run and fails below its bar."""
