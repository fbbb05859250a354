"""Zero-shot classification: an image belongs to the class with the nearest text embedding."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ssleval.core.backbone import Backbone, Similarity
from ssleval.errors import ContractError

_CLASSES_AT_ONCE = 10
_IMAGES_AT_ONCE = 4096


def class_embeddings(backbone: Backbone, prompts: Sequence[Sequence[str]]) -> Float[Tensor, "c p"]:
    """Return one unit vector per class: the normalised mean of the unit embeddings of its prompts.

    Source:
        Radford et al. 2021, arXiv:2103.00020, sec. 3.1.4; agrees with ``build_zero_shot_classifier`` of
        open_clip, which encodes ten classes at a time as well.
    """
    means: list[Tensor] = []
    for start in range(0, len(prompts), _CLASSES_AT_ONCE):
        group = prompts[start : start + _CLASSES_AT_ONCE]
        units = text_embeddings(backbone, [text for texts in group for text in texts])
        means += [part.mean(dim=0) for part in units.split([len(texts) for texts in group])]
    return functional.normalize(torch.stack(means), dim=-1)


def text_embeddings(backbone: Backbone, texts: Sequence[str]) -> Float[Tensor, "n p"]:
    """Return the unit embeddings of texts, in float32; NotApplicableError: the model has no text tower."""
    encoded, card = backbone.encode_text(texts), backbone.card
    backbone.check_tensor("encode_text", encoded, (len(texts), card.pooled_dim or card.embed_dim))
    embeddings = functional.normalize(encoded.float(), dim=-1)
    if not bool(embeddings.isfinite().all()):
        raise ContractError(f"{backbone.card.name}: a text embedding is not finite; are its weights?")
    return embeddings


def image_text_logits(
    images: Float[np.ndarray, "n p"], texts: Float[Tensor, "c p"], similarity: Similarity
) -> Iterator[Float[Tensor, "b c"]]:
    """Yield, for blocks of images, ``scale * cosine + bias`` with every text.

    ``images`` are not normalised and may be memory-mapped; ``texts`` have length 1.
    """
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        rows = torch.from_numpy(np.array(images[start : start + _IMAGES_AT_ONCE], dtype=np.float32))
        units = functional.normalize(rows.to(texts.device), dim=-1)
        yield similarity.scale * units @ texts.T + similarity.bias


def ranked_with_loss(
    logits: Iterator[Float[Tensor, "b c"]], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, "n t"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return five classes of every image, its loss in nats, and the probability of the first class.

    Classes are the best ones, best first; of ties the smaller id.
    """
    ranked: list[Tensor] = []
    losses: list[Tensor] = []
    sure: list[Tensor] = []
    remaining = torch.from_numpy(np.array(labels, dtype=np.int64))
    for block in logits:
        targets, remaining = remaining[: len(block)].to(block.device), remaining[len(block) :]
        ranked.append(block.sort(dim=1, descending=True, stable=True).indices[:, :5].cpu())
        losses.append(functional.cross_entropy(block, targets, reduction="none").cpu())
        sure.append(block.softmax(dim=1).amax(dim=1).cpu())
    return torch.cat(ranked).numpy(), torch.cat(losses).numpy(), torch.cat(sure).numpy()
