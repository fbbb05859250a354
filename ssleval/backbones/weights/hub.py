"""Failed downloads by libraries, as one sentence: what is missing, where it comes from, how to get it."""

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager

from ssleval.core import BackboneCard
from ssleval.errors import WeightsError


@contextmanager
def explained(card: BackboneCard) -> Generator[None]:
    """Replace the errors that a library raises inside, where it cannot get the weights of ``card``.

    Errors with other causes pass through unchanged.

    Raises:
        WeightsError: offline, not found, gated, or damaged on the way.
    """
    from huggingface_hub.errors import GatedRepoError, HFValidationError

    try:
        with quiet():
            yield
    except (OSError, HFValidationError) as error:
        chain = _chain(error)
        gated = card.gated or any(isinstance(cause, GatedRepoError) for cause in chain)
        raise WeightsError(_sentence(card, chain[-1], gated=gated)) from error


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


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error and its causes, the outermost first."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    return causes


def _sentence(card: BackboneCard, cause: BaseException, *, gated: bool) -> str:
    origin = card.weights.get("repo") or card.weights.get("url") or f"{card.loader}:{card.arch}"
    size = f", about {4 * card.parameters:.0f} MB in float32" if card.parameters else ""
    offline = " (HF_HUB_OFFLINE is set)" if is_offline() else ""
    access = (
        f"accept its licence at https://huggingface.co/{card.weights['repo']} and set HF_TOKEN, or "
        if gated and "repo" in card.weights
        else ""
    )
    reason = str(cause).strip().splitlines()
    return (
        f"{card.name}: weights from {origin}{size} are out of reach{offline}: "
        f"{type(cause).__name__}: {reason[0] if reason else 'no reason given'}; {access}"
        "connect once so that they are cached, or pass --checkpoint FILE"
    )
