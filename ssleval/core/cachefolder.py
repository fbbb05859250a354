"""Where features and rendered data are kept when the caller names no folder."""

import os
from pathlib import Path
from tempfile import gettempdir

from platformdirs import user_cache_path

VARIABLE = "SSLEVAL_CACHE"
"""Environment variable that names the cache folder."""


def default_cache() -> Path:
    """Return the folder named by ``SSLEVAL_CACHE``, else the user's cache folder of this platform."""
    if stated := os.environ.get(VARIABLE):
        return Path(stated)
    folder = user_cache_path("ssleval")
    if folder.is_absolute():
        return folder
    # platformdirs leaves `~` in the path of a user without a home directory, as in some containers.
    return Path(gettempdir()) / f"ssleval-{os.getuid()}"
