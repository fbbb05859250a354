"""k-NN classification: how well do classes cluster, with nothing trained.

The protocol of DINO's `eval_knn.py`. One vector per image, the model's own descriptor, at 224 pixels
(bicubic resize of the short side to 256, central crop), no augmentation. Vectors have length 1; the k
training images of largest cosine vote for their class with weight exp(cosine / 0.07), for k of 10, 20,
100 and 200. Top-1, top-5 and the mean recall per class are scored; top-1 at 20 leads, as in the
papers. Equally near images rank by training order, equal classes by id. Only classes with a vote are in a
top-5, however few they are; the published scripts fill it with others, in the order that a sort leaves.

Source: Caron et al. 2021, arXiv:2104.14294, sec. 4.1; Wu et al. 2018, arXiv:1805.01978, sec. 3.4. DINO's code
runs the model in fp32.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Shaped

from ssleval.core import Dataset, Metric, Samples
from ssleval.core.image_level import VectorPerImage
from ssleval.core.settings import Counts, Positive
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.knn import knn_predict
from ssleval.metrics.classification import accuracy, top_k_correct
from ssleval.metrics.stats import mean_of


@tasks.register("knn")
@dataclass(frozen=True)
class Knn(VectorPerImage, Task):
    """Weighted vote of the nearest training images."""

    version: ClassVar[int] = 2
    seeded: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(("label",), training_split=True)
    ks: Counts = (20, 10, 100, 200)
    """Numbers of neighbours; the first leads. Those beyond the training set are not scored."""
    temperature: Positive = 0.07

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Top-1, top-5 and the mean recall per class for every k."""
        names = [f"{score}@{k}" for score in ("top1", "top5") for k in self.ks]
        recalls = (accuracy("mean_per_class", f"top1@{k}", f"@{k}") for k in self.ks)
        return (*(Metric(name, mean_of(name)) for name in names), *recalls)

    def resolved(self, dataset: Dataset) -> "Knn":
        """Return the task without the ks that the training split is too small for.

        A vote of 200 among 60 images would be one of 60 under another name.
        """
        return self._among(dataset.card.lengths[dataset.card.train_split])

    def evaluate(self, inputs: Inputs) -> Samples:
        """Let the training split vote on every scored image; one row per image."""
        train, test = inputs.tables()
        truth = inputs.labels(test)
        if self._among(len(train.ids)) != self:  # corrupt images were left out
            raise ConfigError(
                f"knn: ks={self.ks}, but only {len(train.ids)} training images could be decoded"
            )
        vote = partial(knn_predict, ks=self.ks, temperature=self.temperature, device=inputs.context.device)
        labels, classes = inputs.labels(train), inputs.card.num_classes
        predicted = vote(train[self.vector], labels, test[self.vector], num_classes=classes)
        columns: dict[str, Shaped[np.ndarray, "n ..."]] = {"label": truth}
        for k in self.ks:
            columns[f"predicted@{k}"] = predicted[k][:, 0]
            columns[f"top1@{k}"] = top_k_correct(predicted[k], truth, 1)
            columns[f"top5@{k}"] = top_k_correct(predicted[k], truth, 5)
        return Samples(test.ids, columns)

    def _among(self, count: int) -> "Knn":
        ks = tuple(k for k in self.ks if k <= count)
        if not ks:
            raise ConfigError(
                f"knn: ks={self.ks} among {count} training images; --set knn.ks={max(1, count)} or fewer"
            )
        return replace(self, ks=ks)
