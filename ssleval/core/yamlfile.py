"""Files of YAML, read as plain values."""

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from ssleval.errors import ConfigError

_MOST_VALUES = 100_000
"""Values of a file, those of an alias counted wherever it stands: a short file can stand for billions."""


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    A ConfigError of one line where it is no regular file, no YAML, or holds a key twice or too many values.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is no file")
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        _values(root, {})
        return None if root is None else loader.construct_document(root)
    # Numbers of thousands of digits and dates that do not exist are ValueErrors.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply, or an alias holds itself") from error


def _values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Return how many values a node stands for; ValueError where they are too many, or a key repeats."""
    if id(node) not in known:
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            if twice := [key for key, count in keys.items() if count > 1 and key != "<<"]:
                raise ValueError(f"{twice[0]!r} is there twice in one mapping")
            inside = list(chain.from_iterable(node.value))
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        known[id(node)] = 1 + sum(_values(child, known) for child in inside)
    if known[id(node)] > _MOST_VALUES:
        raise ValueError(f"more than {_MOST_VALUES:,} values")
    return known[id(node)]
