"""`scenes`: pictures of simple things with every kind of ground truth, rendered by this package.

NumPy only. Read `things.py` (what is in a picture), `compose.py` (how it is drawn), `render.py` (how
it is seen), then `splits.py`. Every number is drawn from named streams and computed by operations
that IEEE 754 rounds exactly, so that pixels are equal on every machine.
"""
