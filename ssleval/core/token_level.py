"""What tasks on all tokens of an image share: which tokens, and whether they are stored."""

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from ssleval.core.image_level import ImageGeometry, random_views, train_and_test
from ssleval.core.settings import Count, Natural
from ssleval.core.vocabulary import (
    BackboneCard,
    Dataset,
    FeatureRequest,
    Geometry,
    Interpolation,
    RandomView,
    Readout,
)
from ssleval.errors import ConfigError

T = TypeVar("T", bound="TokensPerImage")

LARGEST_STORE = 64_000_000_000
"""Bytes of tokens that ``features=auto`` stores at most: more than small sets take, less than ImageNet."""


PATCHES = Readout("patches")


@dataclass(frozen=True, kw_only=True)
class SquareImages:
    """Fields of a task that sees images squashed to squares, and reads patches of both splits."""

    size: Count = 448
    """Both sides in pixels; a multiple of every usual patch size (14, 16, 28, 32)."""
    interpolation: Interpolation = "bicubic"

    @property
    def geometry(self) -> Geometry:
        """The geometry to request features at."""
        return Geometry(self.size, "square", None, self.interpolation)

    @property
    def readouts(self) -> tuple[Readout, ...]:
        """Patch tokens of the last block, after the model's final norm."""
        return (PATCHES,)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the patch grids of the training and of the scored split."""
        return train_and_test(dataset, self.geometry, self.readouts)


@dataclass(frozen=True, kw_only=True)
class TokensPerImage(ImageGeometry):
    """Fields of a task that fits heads on tokens: which ones, of which views, from where."""

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

    def refuse_stored_draws(self, name: str) -> None:
        """Refuse to store views without end."""
        if self.features == "stored" and self.views == "new":
            raise ConfigError(f"{name}: views=new are not stored; --set {name}.features=onthefly")

    @property
    def on_the_fly(self) -> bool:
        """Whether the model runs on every batch."""
        return self.features == "onthefly"

    @property
    def tokens(self) -> tuple[Readout, ...]:
        """The readouts that heads attend to."""
        kinds = ("cls", "patches") if self.class_token else ("patches",)
        return tuple(Readout(kind, norm=self.norm) for kind in kinds)

    def for_model(self: T, dataset: Dataset, card: BackboneCard) -> T:
        """Return the task with the origin of tokens chosen by the bytes they would take, two a channel."""
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
        train, test = train_and_test(dataset, self.geometry, () if self.on_the_fly else self.tokens)
        views = self.views if isinstance(self.views, int) and not self.on_the_fly else 0
        return train, test, *random_views(train, views, self.crop, self.views_seed)

    def drawn(
        self, geometry: Geometry, crops: Literal["torchvision", "tensorflow"]
    ) -> tuple[RandomView, ...]:
        """Return the views to draw on the fly; of `new` ones the first, drawn as ``crops`` says."""
        assert geometry.fixed_size is not None
        first = RandomView(0, geometry.fixed_size, seed=self.views_seed)
        if isinstance(self.views, int):
            return tuple(replace(first, index=index) for index in range(self.views))
        return (replace(first, drawn=crops),)
