"""Files of YAML, read as plain values."""

from pathlib import Path
from typing import Any

import yaml

from ssleval.errors import ConfigError


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds; a file that is no YAML is a ConfigError of one line."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
