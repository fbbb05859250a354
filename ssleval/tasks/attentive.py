"""Attentive classification: what patch tokens know together, read by heads that learn where to look.

Heads attend to the patch tokens of the last block, after the model's final norm, and classify.
``protocol=ep``: efficient probing, 32 queries, LARS, 90 epochs. ``protocol=capi``: one query, AdamW, 30 pairs
of rate and weight decay. ``protocol=vjepa``: three blocks and a cross-attention, 21 pairs. Batches, schedules
and grids are the published code's (``heads/attentive``); a set that does not fill the batch has smaller ones,
500 or 1,000 iterations, and ep three rates. ``features=stored`` reads tokens from the store, of images or of
``views`` random crops; ``onthefly`` runs the model on every batch, by default on a new crop of every image in
every pass, as published; ``auto`` is ``stored`` up to 64 GB of tokens.

Candidates are all heads at the end of every stage of the training (ep: epoch; capi: one stage). For
``top1@heldout``, which leads, heads are fitted without a stratified 10 % of the training split, the candidate
is chosen on that, and the same one of a second fit, on all of it, is scored; by capi, as in its code, the one
of the first. ``top1@paper`` is the best candidate on the scored split itself, as ep and vjepa publish it.

Source: arXiv:2506.10178 (ep), arXiv:2502.08769 (capi), arXiv:2506.09985 (vjepa), and the code of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Int

from ssleval.core import BackboneCard, Dataset, FeatureRequest, Metric, Precision, Readout, Samples
from ssleval.core.image_level import ImageGeometry, accuracy_kind, random_views, same_rows, train_and_test
from ssleval.core.settings import Count, Different, Natural, NonNegative, OpenFraction, Positive
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.core.vocabulary import RandomView, Split
from ssleval.errors import ConfigError
from ssleval.features import FitImages, Live, fitted_on
from ssleval.heads.attentive.fit import AttentiveFit, Fits, Reader
from ssleval.heads.attentive.recipes import RECIPES, refuse_width
from ssleval.heads.selection import hold_out
from ssleval.metrics.classification import both_by_rules, chosen_by_rules

LARGEST_STORE = 64_000_000_000
"""Bytes of tokens that ``features=auto`` stores at most: more than small sets take, less than ImageNet."""


@tasks.register("attentive")
@dataclass(frozen=True)
class Attentive(ImageGeometry, Task):
    """Attentive probes on frozen patch tokens."""

    needs: ClassVar[Needs] = Needs(("label",), training_split=True)
    protocol: Literal["ep", "capi", "vjepa"] = "ep"
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
    metric: Literal["card", "top1", "mean_per_class"] = "card"
    class_token: bool = False
    """Whether heads also attend to the class token."""
    norm: bool = True
    """Whether tokens have passed the model's final norm."""
    features: Literal["auto", "stored", "onthefly"] = "auto"
    """Where tokens come from: the store, or the model, which runs on every batch. Auto: the store, up to
    64 GB. Results that record none are of stored tokens."""
    views: Natural | Literal["auto", "new"] = "auto"
    """Augmented views of every image that heads are fitted on; 0: the images; new: another one in every pass.
    Auto: 0 of stored tokens, new on the fly."""
    views_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        name, default = ("weight_decays", ()) if self.protocol == "ep" else ("queries", 32)
        if getattr(self, name) != default:
            raise ConfigError(f"attentive: {name} has no effect with protocol={self.protocol}")
        if self.features == "stored" and self.views == "new":
            raise ConfigError("attentive: views=new are not stored; --set attentive.features=onthefly")
        if self.iterations and self.stages > self.iterations:
            raise ConfigError(f"attentive: {self.stages} stages of {self.iterations} iterations")

    @property
    def published_precision(self) -> Precision:  # pyright: ignore[reportIncompatibleVariableOverride]
        """EP and V-JEPA run under autocast to fp16, CAPI's evaluation without."""
        return RECIPES[self.protocol].precision

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The accuracy by both rules of choosing the candidate, then the one over classes, or over items."""
        return both_by_rules(self.metric)

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

    def for_model(self, dataset: Dataset, card: BackboneCard) -> "Attentive":
        """Return the task with the origin of tokens chosen by the bytes they would take, two a channel.

        Channels that heads cannot divide are refused.
        """
        refuse_width(self.protocol, card.embed_dim, self.queries)
        lengths, geometry = dataset.card.lengths, self.geometry or card.native_geometry()
        copies = 1 + self.views if isinstance(self.views, int) else 1
        images = copies * lengths[dataset.card.train_split] + lengths[dataset.card.test_split]
        patches = ((geometry.fixed_size or 0) // card.patch_size) ** 2
        small = images * patches * card.embed_dim * 2 <= LARGEST_STORE and self.views != "new"
        chosen = ("stored" if small else "onthefly") if self.features == "auto" else self.features
        usual = "new" if chosen == "onthefly" else 0
        return replace(self, features=chosen, views=usual if self.views == "auto" else self.views)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the tokens of the training and of the scored split, then of the views of the former."""
        train, test = train_and_test(dataset, self.geometry, () if self._on_the_fly else self.tokens)
        views = self.views if isinstance(self.views, int) and not self._on_the_fly else 0
        return train, test, *random_views(train, views, self.crop, self.views_seed)

    def recorded(self) -> dict[str, Any]:
        """Return the protocol, in which stored tokens go without saying."""
        fields = super().recorded()
        return fields if self._on_the_fly else {name: fields[name] for name in fields if name != "features"}

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the iterations and the classified images, on the fly anew at the end of every stage."""
        usual, train = super().amounts(dataset), dataset.card.lengths[dataset.card.train_split]
        if not self._on_the_fly:
            return {**usual, "iterations": (self.stages, self.iterations)}
        held, (least, test) = (min(self.batch_size, train), train * self.stages), usual["test"]
        steps = {"iterations": (1, self.iterations), "stages": (1, 1)}
        return {"test": (least, test * self.stages), "train": held, **steps}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit all heads, choose by both rules and classify; one row per scored image."""
        tables = [] if self._on_the_fly else list(inputs.tables())
        splits = tables or [inputs.dataset.split(request.split) for request in inputs.requests]
        train, test = splits[:2]
        labels, truth = inputs.labels(train), inputs.labels(test)
        held, recipe = hold_out(labels, self.held_out, inputs.context.seed), RECIPES[self.protocol]
        heads = recipe.grid(self.learning_rates, self.weight_decays)
        shape = self.queries, self.iterations, self.batch_size, self.stages, self.tokens
        fit = AttentiveFit(self.protocol, recipe, heads, *shape, inputs.card.num_classes, inputs.context)
        same_rows([*tables[:1], *tables[2:]])
        views = tables[2:] or tables[:1]
        fits = partial(fit.predictions, views, labels) if tables else self._running(fit, inputs, labels)
        tried, final = fit.tried_and_final(fits, (train, held), (test, np.ones(len(truth), bool)))
        columns = chosen_by_rules(self.metric, (tried, labels[held]), (final, truth), "candidate")
        return Samples(test.ids, columns)

    def _running(self, fit: AttentiveFit, inputs: Inputs, labels: Int[np.ndarray, " n"]) -> Fits:
        train = inputs.dataset.split(inputs.requests[0].split)
        live, card = Live(inputs.backbone, inputs.context), inputs.backbone.card
        geometry = self.geometry or card.native_geometry()
        assert geometry.fixed_size is not None
        view, count = RandomView(0, geometry.fixed_size, seed=self.views_seed), self.views
        views = (replace(view, drawn=fit.recipe.crops),)
        if isinstance(count, int):
            views = tuple(replace(view, index=index) for index in range(count))
        rest = geometry, self.batch_size, fit.ends, inputs.context.seed, live.batch_size(geometry)

        def fits(rows: Bool[np.ndarray, " n"], judged: Sequence[tuple[Split, Any]]) -> Any:
            shown = [(split, np.flatnonzero(chosen)) for split, chosen in judged]
            images = FitImages(train, np.flatnonzero(rows), views, shown, *rest, new=self.views == "new")
            truth = np.tile(labels[rows], 1 if images.new else max(1, len(views)))

            def fitted(read: Reader) -> Any:
                answers = [(read, inputs.labels(split)[chosen]) for split, chosen in shown]
                return fit.candidates(card.embed_dim, read, truth, answers)

            return fitted_on(live, f"crops of {inputs.card.name}", images, self.tokens, fitted)

        return fits

    @property
    def _on_the_fly(self) -> bool:
        return self.features == "onthefly"

    @property
    def tokens(self) -> tuple[Readout, ...]:
        """The readouts that heads attend to."""
        kinds = ("cls", "patches") if self.class_token else ("patches",)
        return tuple(Readout(kind, norm=self.norm) for kind in kinds)
