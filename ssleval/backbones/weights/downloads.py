"""Downloads of published weights into the caches of torch.hub and of the Hugging Face hub.

Files with a URL are kept in the folder of torch.hub (``TORCH_HOME``); one that is there already is used
without a connection. The library of the Hugging Face hub gets its own files. Where libraries fail to, one
sentence says what is missing, where it comes from and how to get it.
"""

import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import torch
from filelock import FileLock

from ssleval.core import BackboneCard, digest
from ssleval.core.escape import terminal_line
from ssleval.core.files import file_sha256
from ssleval.core.packaged import packaged_weights
from ssleval.errors import WeightsError

_TIMEOUT = 60.0
"""Seconds without data after which a connection counts as broken."""


def fetch_card(card: BackboneCard) -> Path:
    """Return the local file of the published weights of ``card``; download it where it is missing.

    The card's ``weights`` have one of three forms: ``packaged``, the name of a file of the package; ``url``,
    with an optional ``file``, the local name where the last part of the URL is not unique; or ``repo``,
    ``file`` and ``revision`` of the hub. Errors as in `fetch_url`.
    """
    weights = card.weights
    if "url" in weights:
        size = f" (about {4 * card.parameters:.0f} MB)" if card.parameters else ""
        url, kept_as = weights["url"], weights.get("file", "")
        return fetch_url(url, name=card.name, sha256=card.sha256, kept_as=kept_as, size=size)
    if "packaged" in weights:
        path = packaged_weights(weights["packaged"])
    elif "repo" in weights and "file" in weights:
        from huggingface_hub import hf_hub_download

        with explained(card):
            path = Path(hf_hub_download(weights["repo"], weights["file"], revision=weights.get("revision")))
    else:
        raise WeightsError(f"{card.name}: its card names no file of weights; pass --checkpoint FILE")
    _refuse_other(path, card.sha256, card.name)
    return path


def fetch_url(url: str, *, name: str, sha256: str = "", kept_as: str = "", size: str = "") -> Path:
    """Return the local file of ``url``; download it where it is not in the folder of torch.hub.

    The file gets its final name when it is complete and its hash begins with ``sha256``. The next call
    resumes a broken download where the server sends an ETag, by which versions of a file differ. The local
    name is ``kept_as``, or the last part of the URL. ``name`` of the model and ``size`` are for messages.

    Raises:
        WeightsError: offline, unreachable, no such file, incomplete, or not the pinned file.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise WeightsError(f"{name}: {url!r} is no http address; pass the file with --checkpoint FILE")
    path = Path(torch.hub.get_dir(), "checkpoints", kept_as or unquote(PurePosixPath(parts.path).name))
    if not path.is_file():
        reason = _get(url, path, sha256)
        if reason:
            raise WeightsError(
                f"{name}: its weights{size} from {url} are out of reach: {reason}; fetch them into "
                f"{path} on a machine that can, or pass --checkpoint FILE"
            )
    _refuse_other(path, sha256, name)
    return path


def _get(url: str, path: Path, sha256: str) -> str:
    """Download, and return the reason of a failure, or an empty text."""
    if is_offline():
        return "HF_HUB_OFFLINE is set"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.is_file():
            return ""
        try:
            return _download(url, path, sha256)
        except HTTPError as error:
            return f"HTTP {error.code} {error.reason}"
        except (HTTPException, OSError) as error:
            return f"{type(error).__name__}: {error}"


def _download(url: str, path: Path, sha256: str) -> str:
    with urlopen(Request(url), timeout=_TIMEOUT) as response:
        tag, total = response.headers.get("ETag", ""), int(response.headers.get("Content-Length", -1))
        # The name depends on the version, so that parts of two versions are never joined.
        part = path.with_name(f"{path.name}.{digest(tag)[:12]}.part")
        done = part.stat().st_size if tag and part.exists() else 0
        if not 0 < done < total:
            _save(response, part, "wb")
    if 0 < done < total:
        wanted = {"Range": f"bytes={done}-", "If-Range": tag}
        with urlopen(Request(url, headers=wanted), timeout=_TIMEOUT) as response:
            _save(response, part, "ab" if response.status == 206 else "wb")
    received = part.stat().st_size
    if 0 <= total != received:
        return f"the connection broke after {received:,} of {total:,} bytes; run again to go on from there"
    if difference := _difference(part, sha256):
        part.unlink()
        return f"the file {difference}, and was removed"
    part.replace(path)
    return ""


def _save(response: Any, part: Path, mode: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import wrap_file

    length = int(response.headers.get("Content-Length", 0))
    bar: dict[str, Any] = {
        "description": escape(terminal_line(part.name.partition(".")[0])),
        "disable": not sys.stderr.isatty(),
    }
    with wrap_file(response, length, console=Console(stderr=True), **bar) as source, part.open(mode) as file:
        copyfileobj(source, file, 1 << 20)


def _refuse_other(path: Path, sha256: str, name: str) -> None:
    if difference := _difference(path, sha256):
        raise WeightsError(
            f"{name}: {path} {difference}; remove it to fetch it again, or pass --checkpoint FILE for "
            "weights of your own"
        )


def _difference(path: Path, sha256: str) -> str:
    """Return how the hash of a file differs from the pinned one, or an empty text."""
    actual = file_sha256(path) if sha256 else ""
    return "" if actual.startswith(sha256) else f"has sha256 {actual[:16]}..., expected {sha256}"


@contextmanager
def explained(card: BackboneCard) -> Generator[None]:
    """Turn errors of a library that cannot get the weights of ``card`` into a WeightsError; others pass."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError

    try:
        with quiet():
            yield
    except (OSError, HFValidationError) as error:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        gated = card.gated or any(isinstance(cause, GatedRepoError) for cause in causes)
        raise WeightsError(_sentence(card, causes[-1], gated=gated)) from error


def is_offline() -> bool:
    """Return whether ``HF_HUB_OFFLINE`` forbids downloads, by the values that the hub's library knows."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


@contextmanager
def quiet() -> Generator[None]:
    """Suppress what libraries log, such as each retry; errors are still logged."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _sentence(card: BackboneCard, cause: BaseException, *, gated: bool) -> str:
    origin = card.weights.get("repo") or card.weights.get("url") or f"{card.loader}:{card.arch}"
    size = f", about {4 * card.parameters:.0f} MB in float32" if card.parameters else ""
    offline = " (HF_HUB_OFFLINE is set)" if is_offline() else ""
    reason = (str(cause).strip() or "no reason given").splitlines()[0]
    access = ""
    if gated and "repo" in card.weights:
        access = f"accept its licence at https://huggingface.co/{card.weights['repo']} and set HF_TOKEN, or "
    return (
        f"{card.name}: weights from {origin}{size} are out of reach{offline}: {type(cause).__name__}: "
        f"{reason}; {access}connect once so that they are cached, or pass --checkpoint FILE"
    )
