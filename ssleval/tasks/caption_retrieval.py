"""Image-text retrieval: which caption belongs to an image, and which image to a caption.

The protocol of CLIP_benchmark on a captions dataset, zero-shot. Images are the model's own descriptor at the
geometry it was published with, captions its text embeddings, both of length 1, compared by cosine across
the whole scored split. ``image_recall@k`` (text to image) counts captions whose image is among the k nearest;
``text_recall@k`` (image to text) counts images with any of their own captions among the k nearest. Of equally
near ones the earlier ranks first. All captions of an image count; the papers keep five
(``--set caption_retrieval.captions=5``).

Source: Karpathy and Fei-Fei 2015, arXiv:1412.2306; LAION-AI/CLIP_benchmark, zeroshot_retrieval.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ssleval.core import Context, Dataset, FeatureRequest, Metric, Readout, Samples
from ssleval.core.backbone import Backbone
from ssleval.core.task import Source, Task, tasks
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.heads.zeroshot import text_embeddings
from ssleval.metrics.stats import mean_of, ratio_of

_POOLED = Readout("pooled")
_AT_ONCE = 256


@tasks.register("caption_retrieval")
@dataclass(frozen=True)
class CaptionRetrieval(Task):
    """Recall of captions by images and of images by captions."""

    seeded = False

    ks: tuple[int, ...] = (1, 5, 10)
    captions: int = 0
    """The first so many captions of every image; 0: all of them."""

    def __post_init__(self) -> None:
        """Refuse settings that no dataset could honour."""
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks) or self.captions < 0:
            raise ConfigError(
                f"caption_retrieval: ks={self.ks}, captions={self.captions}; expected different numbers "
                "from 1, and captions from 0"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Recall of images, then of texts, at every k."""
        images = (Metric(f"image_recall@{k}", ratio_of(f"captions_right@{k}", "captions")) for k in self.ks)
        texts = (Metric(f"text_recall@{k}", mean_of(f"image_right@{k}")) for k in self.ks)
        return (*images, *texts)

    def check(self, backbone: Backbone) -> None:
        """Refuse a model without a text tower."""
        backbone.similarity()

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored split, at the model's own geometry.

        Raises:
            NotApplicableError: images have no captions.
        """
        card = dataset.card
        if card.target != "captions":
            raise NotApplicableError(
                f"caption_retrieval needs captions; {card.name} has target {card.target!r}"
            )
        return (FeatureRequest(dataset, card.test_split, None, (_POOLED,)),)

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Rank everything for everything; one row per image."""
        (test,) = (source.load(request) for request in self.requests(dataset))
        texts, owner = self._captions(dataset, test.rows)
        embedded = torch.cat(
            [
                text_embeddings(source.backbone, texts[first : first + _AT_ONCE])
                for first in range(0, len(texts), _AT_ONCE)
            ]
        )
        images = torch.from_numpy(np.array(test[_POOLED], dtype=np.float32)).to(context.device)
        images = functional.normalize(images, dim=-1)
        owners = torch.from_numpy(owner).to(context.device)
        image_ranks = _ranks(embedded, images, owners).cpu().numpy()
        text_ranks = _first_own(images, embedded, owners).cpu().numpy()
        columns = {"captions": np.bincount(owner, minlength=len(images)), "text_rank": text_ranks}
        for k in self.ks:
            columns[f"image_right@{k}"] = text_ranks < k
            right = np.bincount(owner, weights=image_ranks < k, minlength=len(images))
            columns[f"captions_right@{k}"] = right
        return Samples(test.ids, columns)

    def _captions(
        self, dataset: Dataset, rows: Int[np.ndarray, " n"]
    ) -> tuple[list[str], Int[np.ndarray, " t"]]:
        """Return all captions, image after image, and the place of each one's image."""
        split = dataset.split(dataset.card.test_split)
        assert split.target is not None, "a captions dataset gives captions"
        texts: list[str] = []
        owner: list[int] = []
        for place, row in enumerate(rows.tolist()):
            own = list(split.target(row))[: self.captions or None]
            if not own:
                raise DataError(f"{dataset.card.name}: {split.ids[row]} has no caption")
            texts += own
            owner += [place] * len(own)
        return texts, np.array(owner, dtype=np.int64)


def _ranks(
    queries: Float[Tensor, "q p"], gallery: Float[Tensor, "g p"], wanted: Int[Tensor, " q"]
) -> Int[Tensor, " q"]:
    """Return how many of the gallery rank before the wanted one of each query."""
    found: list[Tensor] = []
    places = torch.arange(len(gallery), device=gallery.device)
    for first in range(0, len(queries), _AT_ONCE):
        scores = queries[first : first + _AT_ONCE] @ gallery.T
        right = wanted[first : first + _AT_ONCE, None]
        own = scores.gather(1, right)
        found.append(((scores > own) | ((scores == own) & (places < right))).sum(dim=1))
    return torch.cat(found)


def _first_own(
    images: Float[Tensor, "n p"], texts: Float[Tensor, "t p"], owner: Int[Tensor, " t"]
) -> Int[Tensor, " n"]:
    """Return how many captions of others rank before the best of an image's own."""
    nearest: list[Tensor] = []
    for first in range(0, len(images), _AT_ONCE):
        scores = images[first : first + _AT_ONCE] @ texts.T
        numbers = torch.arange(first, first + len(scores), device=scores.device)
        mine = owner[None] == numbers[:, None]
        nearest.append(scores.masked_fill(~mine, -torch.inf).argmax(dim=1))
    return _ranks(images, texts, torch.cat(nearest))
