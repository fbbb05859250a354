"""Zero-shot classification: the class whose description lies nearest to the image, nothing trained.

The protocol of CLIP as open_clip and CLIP_benchmark run it. A class is the mean of the unit text
embeddings of its prompts, scaled to length 1; an image is its own descriptor at the geometry the model was
published with. Logits are cosines with the model's own scale and bias. Prompts are the published ones of
the dataset where there are any (80 templates for ImageNet and its relatives), else "a photo of a {}.".
Scored: top-1, top-5, mean recall per class, and the negative log-likelihood of the softmax in nats; with
several labels per image, mAP of the logits. Models without a text tower are left out.

Source: Radford et al. 2021, arXiv:2103.00020, sec. 3.1; LAION-AI/CLIP_benchmark, zeroshot_classification.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ssleval.core import Context, Dataset, FeatureRequest, Metric, Readout, Samples, digest
from ssleval.core.backbone import Backbone
from ssleval.core.task import Source, Task, tasks
from ssleval.datasets.prompts import Prompts, class_prompts, templates_for
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from ssleval.heads.zeroshot import class_embeddings, image_text_logits
from ssleval.metrics.classification import top_k_correct
from ssleval.metrics.multilabel import mean_average_precision_of
from ssleval.metrics.stats import mean_of, mean_per_class_of

_POOLED = Readout("pooled")


@tasks.register("zeroshot")
@dataclass(frozen=True)
class Zeroshot(Task):
    """Classification by text prompts."""

    seeded: ClassVar[bool] = False
    templates: str = "dataset"
    """Set of templates, or a file with one a line; ``dataset``: the one it was published with."""
    class_names: str = "dataset"
    """Or a file with one name a line, in label order."""
    prompts_sha256: str = ""
    """Hash of all prompts, filled in and recorded; prompts of another hash than given are refused."""
    metric: Literal["card", "top1", "mean_per_class", "map"] = "card"
    """The score that leads; card: the convention of the dataset."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy and likelihood, or mAP where images have several labels."""
        if self.metric == "map":
            return (Metric("map", mean_average_precision_of("scores", "targets")),)
        accuracies = (
            Metric("top1", mean_of("top1")),
            Metric("top5", mean_of("top5")),
            Metric("mean_per_class", mean_per_class_of("top1", "label")),
        )
        lead = accuracies[::-1] if self.metric == "mean_per_class" else accuracies
        return (*lead, Metric("nll", mean_of("nll"), higher_is_better=False, unit="nats"))

    def resolved(self, dataset: Dataset) -> "Zeroshot":
        """Return the task with templates, metric and the hash of the prompts filled in.

        Raises:
            ConfigError: prompts of another hash than asked for, or class names that are no words.
            NotApplicableError: the metric asked for is not one of its kind of label.
        """
        card = dataset.card
        if card.target not in {"label", "multilabel"}:
            return self
        metric = card.metric if self.metric == "card" else self.metric
        if (metric == "map") != (card.target == "multilabel"):
            raise NotApplicableError(
                f"zeroshot: {card.name} has target {card.target!r}, which {metric} cannot score"
            )
        templates = templates_for(card) if self.templates == "dataset" else self.templates
        task = replace(self, templates=templates, metric=metric)
        found = digest(task._prompts(dataset))
        if self.prompts_sha256 not in {"", found}:
            raise ConfigError(
                f"zeroshot: prompts of {card.name} have sha256 {found}, not {self.prompts_sha256}"
            )
        return replace(task, prompts_sha256=found)

    def check(self, backbone: Backbone) -> None:
        """Refuse a model without a text tower."""
        backbone.similarity()

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored split, at the model's own geometry.

        Raises:
            NotApplicableError: images have no labels.
        """
        card = dataset.card
        if card.target not in {"label", "multilabel"}:
            raise NotApplicableError(f"zeroshot needs labels; {card.name} has target {card.target!r}")
        return (FeatureRequest(dataset, card.test_split, None, (_POOLED,)),)

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:  # noqa: ARG002
        """Compare every image with every class; one row per image."""
        task = self.resolved(dataset)
        (test,) = (source.load(request) for request in self.requests(dataset))
        if test.targets is None:
            raise ContractError(f"zeroshot: {dataset.card.name} opened without the labels its card promises")
        backbone = source.backbone
        classes = class_embeddings(backbone, task._prompts(dataset))
        logits = image_text_logits(test[_POOLED], classes, backbone.similarity())
        if task.metric == "map":
            scores = torch.cat([block.cpu() for block in logits]).numpy()
            return Samples(test.ids, {"scores": scores, "targets": test.targets})
        ranked, likelihood = _judged(logits, test.targets)
        columns = {"label": test.targets, "predicted": ranked[:, 0], "nll": likelihood}
        columns |= {f"top{k}": top_k_correct(ranked, test.targets, k) for k in (1, 5)}
        return Samples(test.ids, columns)

    def _prompts(self, dataset: Dataset) -> Prompts:
        return class_prompts(dataset.card, self.templates, self.class_names)


def _judged(
    logits: Iterator[Float[Tensor, "b c"]], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, "n t"], Float[np.ndarray, " n"]]:
    """Return the five best classes of every image, ties to the smaller, and the label's surprise."""
    ranked: list[Tensor] = []
    surprise: list[Tensor] = []
    seen = 0
    for block in logits:
        targets = torch.from_numpy(np.array(labels[seen : seen + len(block)], dtype=np.int64))
        ranked.append(block.sort(dim=1, descending=True, stable=True).indices[:, :5].cpu())
        surprise.append(functional.cross_entropy(block, targets.to(block.device), reduction="none").cpu())
        seen += len(block)
    return torch.cat(ranked).numpy(), torch.cat(surprise).numpy()
