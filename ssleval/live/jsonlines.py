"""A file of JSON lines that is added to, whatever killed whoever wrote it before."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssleval.errors import ConfigError


class JsonLines:
    """One file. Its folder is made; an incomplete last line, of a process that was killed, is cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Add one line."""
        with self._opened() as file:
            file.write(json.dumps(line).encode() + b"\n")

    def _opened(self) -> Any:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror or error})") from error
        file.seek(0)
        return file
