"""Correspondence: do the same points of things get the same patch tokens in two images?

Nothing is trained. Both images are squashed to 448 x 448. The token of a point of the first, interpolated
bilinearly, is compared by cosine with those of the second, upsampled bilinearly to its pixels
(``positions=patches``: with its patches, a match being at their centre); the largest wins.
Key points (`pairs`): a match is right within 0.1 of the longer side of the thing's box in the second
image. PCK is averaged over pairs (``pck@0.1``), over all points, and over categories of means over pairs.
Depth and cameras (`views`): points 16 pixels apart on the first image that the second shows as well, by its
depth; recall is the share of them matched within some pixels of the image, or centimetres of the surface.

Source: Min et al. 2019, arXiv:1908.10543, sec. 3 (PCK); Tang et al. 2023, arXiv:2306.03881 (upsampled
tokens); El Banani et al. 2024, arXiv:2404.08636, sec. 4.2 (recall).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ssleval.core import Context, Dataset, FeatureRequest, Geometry, Interpolation, Metric, Readout, Samples
from ssleval.core.backbone import Backbone
from ssleval.core.targets import KeyPoints, Views
from ssleval.core.task import Source, Task, tasks
from ssleval.errors import ConfigError, ContractError, DataError, NotApplicableError
from ssleval.features.extract import forward
from ssleval.features.geometry import apply
from ssleval.features.progress import progress
from ssleval.features.readouts import canonical
from ssleval.heads.matching import Positions, match
from ssleval.metrics.reprojection import errors, seen_by_both, turned
from ssleval.metrics.stats import mean_of, mean_per_class_of, ratio_of

Matcher: TypeAlias = Callable[[Float[np.ndarray, "k 2"]], Float[np.ndarray, "k 2"]]
"""Takes points of the first image to their matches in the second."""

_IDLE = {"pairs": ("pixels", "centimetres", "step", "tolerance"), "views": ("alphas", "normalise")}
"""Settings without effect, by kind of pairs."""

KEPT = 64
"""Images whose tokens are kept: lists of pairs name the same ones again soon."""


@tasks.register("correspondence")
@dataclass(frozen=True)
class Correspondence(Task):
    """Points matched between two images by patch tokens alone."""

    block: int = -1
    """Whose tokens are compared, after the model's final norm."""
    size: int = 448
    """Both sides in pixels; rounded down to whole patches."""
    interpolation: Interpolation = "bicubic"
    positions: Positions = "pixels"
    """What is searched in the second image."""
    alphas: tuple[float, ...] = (0.1, 0.05, 0.2)
    """Of key points: the largest distance, as a part of the box; the first leads."""
    normalise: Literal["box", "image"] = "box"
    """Of what longer side ``alphas`` are parts: of the thing's box, or of the second image."""
    pixels: tuple[float, ...] = (10.0, 5.0, 20.0)
    """Of views: the largest distance in pixels of the second image; the first leads."""
    centimetres: tuple[float, ...] = (5.0, 2.0, 10.0)
    """Of views: the largest distance on the surface."""
    step: int = 16
    """Pixels of the image between the points of a view."""
    tolerance: float = 0.05
    """Metres between the depths of a point and of the pixel it falls on: more is hidden."""

    seeded = False

    def __post_init__(self) -> None:
        """Refuse settings that no pair could honour."""
        bounds = (self.alphas, self.pixels, self.centimetres)
        if any(min(some, default=1) <= 0 or len(set(some)) < len(some) for some in bounds):
            raise ConfigError(
                f"correspondence: alphas={self.alphas}, pixels={self.pixels}, "
                f"centimetres={self.centimetres}; expected different positive numbers"
            )
        if min(self.size, self.step) < 1 or not self.tolerance > 0:
            raise ConfigError(
                f"correspondence: size={self.size}, step={self.step}, tolerance={self.tolerance}; "
                "all must be positive"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """PCK of key points, recall of views."""
        names = [f"pck@{alpha:g}" for alpha in self.alphas]
        recalls = [f"recall_px@{far:g}" for far in self.pixels]
        recalls += [f"recall_cm@{far:g}" for far in self.centimetres]
        return (
            *(Metric(name, mean_of(name)) for name in names),
            *(Metric(f"pck_point@{a:g}", ratio_of(f"right@{a:g}", "points")) for a in self.alphas),
            *(Metric(f"pck_macro@{a:g}", mean_per_class_of(f"pck@{a:g}", "category")) for a in self.alphas),
            *(Metric(name, mean_of(name)) for name in recalls),
        )

    def resolved(self, dataset: Dataset) -> "Correspondence":
        """Return the task with the scores that the dataset's kind of pairs has.

        Raises:
            ConfigError: none of them is asked for, or something that its pairs have no use for.
        """
        target = dataset.card.target
        for name in _IDLE.get(target, ()):
            if getattr(self, name) not in {(), getattr(Correspondence, name)}:
                raise ConfigError(
                    f"correspondence: {name}={getattr(self, name)} has no effect on {dataset.card.name}, "
                    f"whose target is {target}; leave it out"
                )
        if target == "pairs":
            task = replace(self, pixels=(), centimetres=())
        else:
            task = replace(self, alphas=()) if target == "views" else self
        if not task.metrics:
            raise ConfigError(f"correspondence: no score of {target} is left; set alphas, or pixels")
        return task

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored pairs, which go through the model in `evaluate`.

        Raises:
            NotApplicableError: the dataset has no pairs.
        """
        card = dataset.card
        if card.target not in {"pairs", "views"}:
            raise NotApplicableError(
                "correspondence needs pairs with key points, or with depth and cameras; "
                f"{card.name} has target {card.target!r}"
            )
        return (FeatureRequest(dataset, card.test_split, None, ()),)

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Match every pair; one row per pair that shares a point."""
        card, backbone = dataset.card, source.backbone
        split = dataset.split(card.test_split)
        if split.target is None:
            raise ContractError(f"{card.name} opened without the pairs its card promises")
        ids: list[str] = []
        rows: list[dict[str, float]] = []
        kept: dict[str, Tensor] = {}
        with progress(
            f"{backbone.card.name} on {card.name}", len(split), 0, show=context.progress
        ) as advance:
            for row, name in enumerate(split.ids):
                pair: KeyPoints | Views = split.target(row)
                images = (split.image(row), pair.partner)
                matched = partial(
                    _matched,
                    grids=[
                        self._tokens(backbone, *one, kept, context)
                        for one in zip(pair.names, images, strict=True)
                    ],
                    sizes=[image.size for image in images],
                    positions=self.positions,
                )
                if scores := self._scores(pair, matched):
                    ids.append(name)
                    rows.append(scores)
                advance(1)
        if not ids:
            raise DataError(f"{card.name}/{card.test_split}: no pair has a point that both images show")
        return Samples(ids, {name: np.array([row[name] for row in rows]) for name in rows[0]})

    def _tokens(
        self, backbone: Backbone, name: str, image: Image.Image, kept: dict[str, Tensor], context: Context
    ) -> Float[Tensor, "h w d"]:
        if name not in kept:
            if len(kept) == KEPT:
                del kept[next(iter(kept))]
            patch = backbone.card.patch_size
            if self.size < patch:
                raise ConfigError(f"correspondence: size={self.size} holds no patch of {patch} pixels")
            geometry = Geometry(self.size // patch * patch, "square", None, self.interpolation)
            readout = canonical(Readout("patches", self.block), backbone)
            pixels = torch.from_numpy(apply(geometry, image))[None]
            kept[name] = forward(backbone, pixels, (readout,), context)[readout][0].float()
        return kept[name]

    def _scores(self, pair: KeyPoints | Views, matched: Matcher) -> dict[str, float]:
        """Return the row of one pair, empty where it shares no point."""
        if isinstance(pair, Views):
            return self._recall(pair, matched)
        if not len(pair.points):
            return {}
        left, top, right, bottom = pair.box if self.normalise == "box" else (0, 0, *pair.partner.size)
        far = np.linalg.norm(matched(pair.points) - pair.partner_points, axis=1)
        correct = {alpha: far <= alpha * max(right - left, bottom - top) for alpha in self.alphas}
        rows: dict[str, float] = {f"pck@{alpha:g}": float(hit.mean()) for alpha, hit in correct.items()}
        rows |= {f"right@{alpha:g}": int(hit.sum()) for alpha, hit in correct.items()}
        return rows | {"points": len(far), "category": pair.category}

    def _recall(self, views: Views, matched: Matcher) -> dict[str, float]:
        seen = seen_by_both(views, self.step, self.tolerance)
        if not len(seen.points):
            return {}
        pixels, metres = errors(matched(seen.points), seen, views)
        rows: dict[str, float] = {f"recall_px@{far:g}": float((pixels <= far).mean()) for far in self.pixels}
        rows |= {f"recall_cm@{far:g}": float((metres <= far / 100).mean()) for far in self.centimetres}
        return rows | {"points": len(pixels), "degrees": turned(views.motion)}


def _matched(
    points: Float[np.ndarray, "k 2"],
    *,
    grids: Sequence[Float[Tensor, "h w d"]],
    sizes: Sequence[tuple[int, int]],
    positions: Positions,
) -> Float[np.ndarray, "k 2"]:
    """Return the matches of points of the first image, both as column and row in pixels."""
    first, second = grids
    places = torch.from_numpy(points / np.array(sizes[0])).to(first)
    width, height = sizes[1]
    return match(first, second, places, (height, width), positions).cpu().numpy() * np.array(sizes[1])
