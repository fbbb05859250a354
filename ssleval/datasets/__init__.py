"""Names to data: one source or set a file, the files they read, and the scenes that are rendered."""
