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
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from ssleval.core import Dataset, FeatureRequest, Metric, Readout, Samples
from ssleval.core.answers import captions_of
from ssleval.core.settings import Counts, Natural
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.heads.pairing import ranks_of, ranks_of_nearest_own
from ssleval.heads.zeroshot import text_embeddings
from ssleval.metrics.stats import mean_of, ratio_of

_POOLED = Readout("pooled")
_TEXTS = 256
"""Texts embedded at a time."""


@tasks.register("caption_retrieval")
@dataclass(frozen=True)
class CaptionRetrieval(Task):
    """Recall of captions by images and of images by captions."""

    seeded: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(("captions",), text_tower=True)
    ks: Counts = (1, 5, 10)
    captions: Natural = 0
    """The first so many captions of every image; 0: all of them."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Recall of images, then of texts, at every k."""
        images = (Metric(f"image_recall@{k}", ratio_of(f"captions_right@{k}", "captions")) for k in self.ks)
        texts = (Metric(f"text_recall@{k}", mean_of(f"image_right@{k}")) for k in self.ks)
        return (*images, *texts)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored split, at the model's own geometry."""
        return (FeatureRequest(dataset, dataset.card.test_split, None, (_POOLED,)),)

    def evaluate(self, inputs: Inputs) -> Samples:
        """Rank everything for everything; one row per image."""
        (test,) = inputs.tables()
        captions, owner = captions_of(inputs, test, self.captions)
        starts = range(0, len(captions), _TEXTS)
        texts = torch.cat([text_embeddings(inputs.backbone, captions[at : at + _TEXTS]) for at in starts])
        images = torch.from_numpy(np.array(test[_POOLED], dtype=np.float32)).to(inputs.context.device)
        images, owners = functional.normalize(images, dim=-1), torch.from_numpy(owner).to(images.device)
        image_ranks = ranks_of(texts, images, owners).cpu().numpy()
        text_ranks = ranks_of_nearest_own(images, texts, owners).cpu().numpy()
        columns = {"captions": np.bincount(owner, minlength=len(images)), "text_rank": text_ranks}
        for k in self.ks:
            columns[f"image_right@{k}"] = text_ranks < k
            right = np.bincount(owner, weights=image_ranks < k, minlength=len(images))
            columns[f"captions_right@{k}"] = right
        return Samples(test.ids, columns)
