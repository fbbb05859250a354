"""The model run on images as they come, for protocols whose features cannot be stored."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from ssleval.core import Context, Geometry, Interpolation, Readout, Split
from ssleval.core.backbone import Backbone, PatchesOf
from ssleval.core.geometry import apply
from ssleval.errors import ConfigError
from ssleval.features.decode import decoded_batches
from ssleval.features.extract import choose_batch_size, forward, forward_pixels, numerics, on_device
from ssleval.features.progress import progress
from ssleval.features.readouts import canonical
from ssleval.features.shard import current_shard

T = TypeVar("T")
R = TypeVar("R")


class Live:
    """A backbone under one context: images in, readouts out, nothing stored."""

    def __init__(self, backbone: Backbone, context: Context) -> None:
        self.backbone = backbone
        self.context = context

    def read(
        self, images: UInt8[Tensor, "b H W 3"], readouts: Sequence[Readout]
    ) -> dict[Readout, Float[Tensor, "b ..."]]:
        """Return every readout of 8-bit images, on ``context.device``, under the names asked for."""
        canonicals = {readout: canonical(readout, self.backbone) for readout in readouts}
        values = forward(self.backbone, images, tuple(dict.fromkeys(canonicals.values())), self.context)
        return {readout: values[known] for readout, known in canonicals.items()}

    def read_image(self, image: Image.Image, geometry: Geometry, readout: Readout) -> Float[Tensor, "..."]:
        """Return one readout of one image in float32, without the axis of the batch."""
        pixels = pixels_of(image, geometry.on_grid(self.backbone.card.patch_size))
        return self.read(pixels, (readout,))[readout][0].float()

    def read_named(
        self, geometry: Geometry, readout: Readout, kept: int
    ) -> Callable[[str, Image.Image], Float[Tensor, "..."]]:
        """Return `read_image` for images with names, which remembers its last ``kept`` answers."""
        answers: dict[str, Tensor] = {}

        def read(name: str, image: Image.Image) -> Float[Tensor, "..."]:
            if name not in answers:
                if len(answers) == kept:
                    del answers[next(iter(answers))]
                answers[name] = self.read_image(image, geometry, readout)
            return answers[name]

        return read

    def attention(self, images: UInt8[Tensor, "b H W 3"]) -> Float[Tensor, "b heads h w"]:
        """Return the last block's attention of the class token, as `Backbone.attention` does."""
        pixels = on_device(images, self.context).float().div_(255)
        with numerics(self.context):
            maps = self.backbone.attention(pixels)
        self.backbone.check_tensor("attention", maps, (len(images), None, *self.backbone.patch_grid(pixels)))
        return maps

    def keys(self, images: UInt8[Tensor, "b H W 3"]) -> Float[Tensor, "b h w d"]:
        """Return the keys of the last attention, as `Backbone.keys` does, of `filled` images."""
        pixels = self.filled(images)
        with numerics(self.context):
            keys = self.backbone.keys(pixels)
        self.backbone.check_tensor("keys", keys, (len(images), *self.backbone.patch_grid(pixels), None))
        return keys

    def patches(self, images: UInt8[Tensor, "b H W 3"]) -> Float[Tensor, "b h w d"]:
        """Return the patch tokens of the last block, after the final norm, of `filled` images."""
        readout = canonical(Readout("patches"), self.backbone)
        return forward_pixels(self.backbone, self.filled(images), (readout,), self.context)[readout]

    def filled(self, images: UInt8[Tensor, "b H W 3"]) -> Float[Tensor, "b 3 K L"]:
        """Return images in [0, 1], filled up below and right to whole patches with the mean colour."""
        pixels, card = on_device(images, self.context).float().div_(255), self.backbone.card
        return padded(pixels, card.patch_size, card.mean, centred=False)

    def grids(self, readouts: Sequence[Readout]) -> PatchesOf:
        """Return a function from RGB in [0, 1] to float32 patch grids, channels of ``readouts`` concatenated.

        Images of any size are padded on all sides to whole patches with the model's mean colour.
        """
        wanted = tuple(canonical(readout, self.backbone) for readout in readouts)
        card = self.backbone.card

        def patches_of(pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b h w d"]:
            whole = padded(pixels, card.patch_size, card.mean, centred=True)
            values = forward_pixels(self.backbone, whole, wanted, self.context)
            return torch.cat([values[readout].float() for readout in wanted], dim=3)

        return patches_of

    def shared(
        self, name: str, items: Sequence[T], function: Callable[[T], R], images: Callable[[T], int]
    ) -> Iterator[R]:
        """Yield ``function(item)`` for all items in order, under a progress bar for ``name``.

        Several processes (`torchrun`) share the items, and each gets all values, equal to the bit to those of
        one process. A value must not depend on earlier items, and lie on `sent_from`. ``images`` says how
        many an item counts for.
        """
        with self.progress(name, sum(map(images, items))) as advance:
            values = current_shard().shared(name, items, function)
            for item, value in zip(items, values, strict=True):
                yield value
                advance(images(item))

    @property
    def sent_from(self) -> str:
        """The device of values that processes share: the CPU, or that of the model where it is alone."""
        return self.context.device if current_shard().world == 1 else "cpu"

    def batches(self, split: Split, geometry: Geometry) -> list[range]:
        """Return the rows of a split that go through the model together, batch by batch in order."""
        size = self.batch_size(geometry)
        return [range(start, min(start + size, len(split))) for start in range(0, len(split), size)]

    def batch_size(self, geometry: Geometry) -> int:
        """Return how many images of a geometry go through the model together."""
        # A number for all processes: GPUs differ, and other batches would give other last digits.
        return current_shard().from_leader(
            "batch size", lambda: choose_batch_size(self.backbone, (), geometry, self.context)
        )

    def shared_batches(
        self, name: str, batches: Dataset[T], count: int, function: Callable[[T], R], images: int
    ) -> Iterator[R]:
        """Yield the `shared` values of ``count`` batches of so many ``images``, decoded ahead."""
        shard = current_shard()
        decoded = iter(decoded_batches(batches, range(shard.rank, count, shard.world), self.context))
        return self.shared(name, range(count), lambda _: function(next(decoded)), lambda _: images)

    def fit_once(self, head: nn.Module, values: Iterator[T], fit: Callable[[Iterator[T]], object]) -> None:
        """Have the first process ``fit`` a head on `shared` values, and give its weights to the others."""
        shard = current_shard()
        if shard.leads:
            fit(values)
        else:
            deque(values, maxlen=0)
        if shard.world > 1:
            own = head.state_dict()
            sent = shard.from_leader("weights of the head", lambda: {name: own[name].cpu() for name in own})
            head.load_state_dict(sent)
            head.to(self.context.device).eval()

    def square(self, name: str, size: int, interpolation: Interpolation) -> Geometry:
        """Return the square of ``size`` pixels, rounded down to whole patches; ``name`` is the task."""
        patch = self.backbone.card.patch_size
        if size < patch:
            raise ConfigError(f"{name}: size={size} holds no patch of {patch} pixels")
        return Geometry(size // patch * patch, "square", None, interpolation)

    def progress(self, dataset: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Return a progress bar over ``total`` items of a dataset."""
        show = self.context.progress and current_shard().leads
        return progress(f"{self.backbone.card.name} on {dataset}", total, 0, show=show)


def pixels_of(image: Image.Image, geometry: Geometry) -> UInt8[Tensor, "1 H W 3"]:
    """Return an image as the model is shown it, a batch of one."""
    return torch.from_numpy(np.ascontiguousarray(apply(geometry, image)))[None]


def padded(
    pixels: Float[Tensor, "b 3 H W"], multiple: int, colour: Sequence[float], *, centred: bool
) -> Float[Tensor, "b 3 K L"]:
    """Return images filled up with ``colour`` to a multiple of so many pixels: on all sides, or at the end.

    Source:
        CenterPadding of dinov2/eval, which pads normalised images with zeros: the mean colour.
    """
    height, width = pixels.shape[2:]
    down, across = -height % multiple, -width % multiple
    if not (down or across):
        return pixels
    top, left = (down // 2, across // 2) if centred else (0, 0)
    canvas = torch.tensor(colour, device=pixels.device).view(1, 3, 1, 1)
    canvas = canvas.repeat(len(pixels), 1, height + down, width + across)
    canvas[:, :, top : top + height, left : left + width] = pixels
    return canvas
