"""Attentive classification: what patch tokens know together, read by heads that learn where to look.

Heads attend to the patch tokens of the last block, after the model's final norm, and classify.
``protocol=ep``: efficient probing, 32 queries, LARS, 90 epochs. ``protocol=capi``: one query, AdamW, 30 pairs
of rate and weight decay. ``protocol=vjepa``: three blocks and a cross-attention, 21 pairs. Batches, schedules
and grids are the published code's (``heads/attentive``); a set that does not fill the batch has smaller ones,
500 or 1,000 iterations, and ep three rates. Tokens are stored, of images or of ``views`` random crops.

Candidates are all heads at the end of every stage of the training (ep: epoch; capi: one stage). For
``top1@heldout``, which leads, heads are fitted without a stratified 10 % of the training split, the candidate
is chosen on that, and the same one of a second fit, on all of it, is scored; by capi, as in its code, the one
of the first. ``top1@paper`` is the best candidate on the scored split itself, as ep and vjepa publish it.

Source: arXiv:2506.10178 (ep), arXiv:2502.08769 (capi), arXiv:2506.09985 (vjepa), and the code of each.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from ssleval.core import Dataset, FeatureRequest, Metric, Precision, Readout, Samples
from ssleval.core.image_level import ImageGeometry, accuracy_kind, random_views, same_rows, train_and_test
from ssleval.core.settings import Count, Different, Natural, NonNegative, OpenFraction, Positive
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.attentive.fit import AttentiveFit
from ssleval.heads.attentive.recipes import RECIPES
from ssleval.heads.selection import hold_out
from ssleval.metrics.classification import accuracy, chosen_by_rules


@tasks.register("attentive")
@dataclass(frozen=True)
class Attentive(ImageGeometry, Task):
    """Attentive probes on frozen patch tokens."""

    needs: ClassVar[Needs] = Needs(("label",), training_split=True)
    protocol: Literal["ep", "capi", "vjepa"] = "ep"
    class_token: bool = False
    """Whether heads also attend to the class token."""
    norm: bool = True
    """Whether tokens have passed the model's final norm."""
    queries: Count = 32
    """Of efficient probing; a divisor of the channels."""
    learning_rates: Annotated[tuple[Positive, ...], Different] = ()
    """Base rates (ep, capi: for a batch of 256); none: the protocol's."""
    weight_decays: Annotated[tuple[NonNegative, ...], Different] = ()
    """Of AdamW, each with every rate; none: the protocol's."""
    iterations: Natural = 0
    """0: the protocol's epochs, within its bounds; the number it comes to is recorded."""
    batch_size: Natural = 0
    """0: the protocol's, or the largest power of two within an eighth (ep: a 32nd) of a small set."""
    stages: Natural = 0
    """Equal parts of the training; heads are candidates at the end of each. 0: the protocol's."""
    held_out: OpenFraction = 0.1
    """Fraction of every training class that candidates are chosen on."""
    views: Natural = 0
    """Augmented views of every image that heads are fitted on; 0: the images."""
    views_seed: int = 0
    metric: Literal["card", "top1", "mean_per_class"] = "card"

    def __post_init__(self) -> None:
        """Refuse settings that the protocol does not read."""
        super().__post_init__()
        name, default = ("weight_decays", ()) if self.protocol == "ep" else ("queries", 32)
        if getattr(self, name) != default:
            raise ConfigError(f"attentive: {name} has no effect with protocol={self.protocol}")
        if self.iterations and self.stages > self.iterations:
            raise ConfigError(f"attentive: {self.stages} stages of {self.iterations} iterations")

    @property
    def published_precision(self) -> Precision:  # pyright: ignore[reportIncompatibleVariableOverride]
        """EP and V-JEPA run under autocast to fp16, CAPI's evaluation without."""
        return RECIPES[self.protocol].precision

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The accuracy by both rules of choosing the candidate."""
        return tuple(accuracy(self.metric, f"correct@{rule}", f"@{rule}") for rule in ("heldout", "paper"))

    def resolved(self, dataset: Dataset) -> "Attentive":
        """Return the task with what it left to protocol and dataset filled in."""
        count = dataset.card.lengths[dataset.card.train_split]
        recipe = RECIPES[self.protocol].for_images(count)
        batch = self.batch_size or recipe.batch_size
        steps = self.iterations or recipe.iterations(count, batch)
        stages, metric = self.stages or min(recipe.stages, steps), accuracy_kind(self.metric, dataset.card)
        rates, decays = self.learning_rates or recipe.rates, self.weight_decays or recipe.decays
        full = replace(self, batch_size=batch, iterations=steps, stages=stages, metric=metric)
        return replace(full, learning_rates=rates, weight_decays=decays)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the tokens of the training and of the scored split, then of the views of the former."""
        kinds = ("cls", "patches") if self.class_token else ("patches",)
        readouts = tuple(Readout(kind, norm=self.norm) for kind in kinds)
        train, test = train_and_test(dataset, self.geometry, readouts)
        return train, test, *random_views(train, self.views, self.crop, self.views_seed)

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the iterations and the scored images."""
        return {**super().amounts(dataset), "iterations": (self.stages, self.iterations)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit all heads, choose by both rules and classify; one row per scored image."""
        train, test, *views = inputs.tables()
        same_rows([train, *views])
        labels, truth = inputs.labels(train), inputs.labels(test)
        held, recipe = hold_out(labels, self.held_out, inputs.context.seed), RECIPES[self.protocol]
        heads = recipe.grid(self.learning_rates, self.weight_decays)
        shape = self.queries, self.iterations, self.batch_size, self.stages, inputs.requests[0].readouts
        fit = AttentiveFit(self.protocol, recipe, heads, *shape, inputs.card.num_classes, inputs.context)
        tried, final = fit.tried_and_final(train, views, labels, held, test)
        columns = chosen_by_rules(self.metric, (tried, labels[held]), (final, truth), "candidate")
        return Samples(test.ids, columns)
