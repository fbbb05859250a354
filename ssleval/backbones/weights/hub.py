"""Failed downloads by libraries, as one sentence: what is missing, where it comes from, how to get it."""

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager

from ssleval.core import BackboneCard
from ssleval.errors import WeightsError


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
