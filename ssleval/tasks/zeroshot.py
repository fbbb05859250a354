"""Zero-shot classification: the class whose description lies nearest to the image, nothing trained.

The protocol of CLIP as open_clip and CLIP_benchmark run it. A class is the mean of the unit text
embeddings of its prompts, scaled to length 1; an image is its own descriptor at the geometry the model was
published with. Logits are cosines with the model's own scale and bias. Prompts are the published ones of
the dataset where there are any (80 templates for ImageNet and its relatives), else "a photo of a {}.".
Scored: top-1, top-5, mean recall per class, and the calibration of the softmax; with several labels per
image, mAP of the logits. Models without a text tower are left out.

Source: Radford et al. 2021, arXiv:2103.00020, sec. 3.1; LAION-AI/CLIP_benchmark, zeroshot_classification.py.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from ssleval.core import Dataset, FeatureRequest, Metric, Precision, Readout, Samples
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.datasets.prompts import class_prompts, pinned
from ssleval.errors import NotApplicableError
from ssleval.heads.zeroshot import class_embeddings, image_text_logits, ranked_with_loss
from ssleval.metrics.calibration import calibration
from ssleval.metrics.classification import top_k_correct
from ssleval.metrics.multilabel import MEAN_PRECISIONS
from ssleval.metrics.stats import mean_of, mean_per_class_of

_POOLED = Readout("pooled")


@tasks.register("zeroshot")
@dataclass(frozen=True)
class Zeroshot(Task):
    """Classification by text prompts."""

    seeded: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(("label", "multilabel"), text_tower=True)
    published_precision: ClassVar[Precision] = "fp16"
    """open_clip evaluates in mixed precision."""
    templates: str = "dataset"
    """Set of templates, or a file with one a line; ``dataset``: the one it was published with."""
    class_names: str = "dataset"
    """Or a file with one name a line, in label order."""
    prompts_sha256: str = ""
    """Hash of all prompts, filled in and recorded; prompts of another hash than given are refused."""
    metric: Literal["card", "top1", "mean_per_class", "map", "map_11"] = "card"
    """The score that leads; card: the convention of the dataset. ``map_11``: mAP by VOC 2007's 11 points."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy and calibration, or mAP where images have several labels."""
        if self.metric in MEAN_PRECISIONS:
            return (MEAN_PRECISIONS[self.metric],)
        accuracies = (
            Metric("top1", mean_of("top1")),
            Metric("top5", mean_of("top5")),
            Metric("mean_per_class", mean_per_class_of("top1", "label")),
        )
        lead = accuracies[::-1] if self.metric == "mean_per_class" else accuracies
        return *lead, *calibration(correct="top1")

    def resolved(self, dataset: Dataset) -> "Zeroshot":
        """Return the task with templates, metric and the hash of the prompts filled in."""
        card = dataset.card
        metric = card.metric if self.metric == "card" else self.metric
        if (metric in MEAN_PRECISIONS) != (card.target == "multilabel"):
            raise NotApplicableError(f"{card.name} has target {card.target!r}, which {metric} cannot score")
        prompts = pinned("zeroshot", card, self.templates, self.class_names, self.prompts_sha256)
        return replace(self, templates=prompts[0], prompts_sha256=prompts[1], metric=metric)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored split, at the model's own geometry."""
        return (FeatureRequest(dataset, dataset.card.test_split, None, (_POOLED,)),)

    def evaluate(self, inputs: Inputs) -> Samples:
        """Compare every image with every class; one row per image."""
        (test,) = inputs.tables()
        labels, backbone = inputs.labels(test), inputs.backbone
        classes = class_embeddings(backbone, class_prompts(inputs.card, self.templates, self.class_names))
        logits = image_text_logits(test[_POOLED], classes, backbone.similarity())
        if self.metric in MEAN_PRECISIONS:
            scores = torch.cat([block.cpu() for block in logits]).numpy()
            return Samples(test.ids, {"scores": scores, "targets": labels})
        ranked, loss, confidence = ranked_with_loss(logits, labels)
        columns = {"label": labels, "predicted": ranked[:, 0], "nll": loss, "confidence": confidence}
        columns |= {f"top{k}": top_k_correct(ranked, labels, k) for k in (1, 5)}
        return Samples(test.ids, columns)
