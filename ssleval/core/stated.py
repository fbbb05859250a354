"""What a classifier states of items: their class, how sure it is of it, and how likely it held the truth."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


@torch.no_grad()
def stated(logits: Float[Tensor, "b *s c"], truth: Int[Tensor, " b"]) -> Shaped[np.ndarray, "b *s"]:
    """Return an array with the fields ``class``, ``confidence`` and ``nll``.

    They are the first class of largest logit, its probability by the softmax, and the negative logarithm of
    the probability of ``truth``, in nats. The last two have the precision of ``logits``.
    """
    classes = logits.argmax(dim=-1, keepdim=True)
    below = logits - logits.gather(-1, classes)
    places = truth.to(logits.device).view(-1, *[1] * (logits.ndim - 1))
    own = below.gather(-1, places.expand_as(classes))
    total = below.exp_().sum(dim=-1).log_()
    confidence, nll = (column.cpu().numpy() for column in ((-total).exp(), total - own[..., 0]))
    kind: Any = [("class", np.int32), ("confidence", nll.dtype), ("nll", nll.dtype)]
    found: Any = np.empty(nll.shape, dtype=kind)
    found["class"], found["confidence"], found["nll"] = classes[..., 0].cpu().numpy(), confidence, nll
    return found


def stated_of(
    logits: Float[np.ndarray, "n *s c"], truth: Int[np.ndarray, " n"]
) -> Shaped[np.ndarray, "n *s"]:
    """Return what `stated` does, of arrays."""
    return stated(torch.from_numpy(logits), torch.from_numpy(np.array(truth, np.int64)))


def stated_columns(
    logits: Float[np.ndarray, "n c"], truth: Int[np.ndarray, " n"], suffix: str = ""
) -> dict[str, Float[np.ndarray, " n"]]:
    """Return the columns ``confidence`` and ``nll`` of samples, with ``suffix`` behind their names."""
    found = stated_of(logits, truth)
    return {f"{name}{suffix}": found[name].copy() for name in ("confidence", "nll")}
