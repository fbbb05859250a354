"""Is a checkpoint no worse than the last one? Measure a suite, decide, report."""
