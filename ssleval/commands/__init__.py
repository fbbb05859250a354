"""Commands of `ssleval`, one file each: parse, call, print. ``cli.py`` puts them together."""
