"""`scenes`: pictures of simple things with every kind of ground truth, rendered with NumPy.

Read `things.py` (objects), `compose.py` (how a scene is drawn at random), `render.py` (how it is rendered),
then `items.py` (what each split holds). Random numbers come from named streams, and pixels from operations
that IEEE 754 rounds exactly; so pixels are equal on every machine.
"""
