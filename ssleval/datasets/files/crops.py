"""Photographs of one object with its depth, cropped to the object as probe3d crops them.

An image is turned upright, reduced to 512 pixels on the shorter side, cut to the central square, and cropped
to the square around the object, which is where depth is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Shaped, UInt8
from PIL import Image, ImageOps

from ssleval.core.geometry import margin
from ssleval.datasets.files.dense import TargetFiles
from ssleval.datasets.files.images import DAMAGED, decode
from ssleval.datasets.files.normals import normals_of
from ssleval.errors import DataError

_STORED, _SIDE = 1024, 512
"""Pixels of the shorter side that probe3d stores, and of the square that it takes out of that."""
_UNITS = 655.35
"""What a stored value divides: 16 bits hold inverse millimetres times 10."""
_RADIUS, _EDGE = 2, 0.03
"""Of `normals_of`: the depth is rendered, without the noise of a sensor, and objects are small."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One photograph of an object."""

    scene: str
    """Folder in which images share the frame of the object."""
    image: str
    """Path below the root, as is that of the depth."""
    depth: str
    size: tuple[int, int]
    """Height and width of the upright image, whose centre is that of the camera."""
    focal: float
    """Pixels of the upright image."""
    pose: Float64[np.ndarray, "4 4"]
    """From the object to the camera, in metres."""


class Crop(NamedTuple):
    """The square around an object."""

    place: tuple[slice, slice]
    """Rows and columns of the central square."""
    depth: Float32[np.ndarray, "s s"]
    """Metres, 0 where unknown."""
    intrinsics: Float64[np.ndarray, "3 3"]

    def enlarged(self) -> "Crop":
        """Return the crop with as many pixels as the central square, each the nearest one."""
        factor = _SIDE / len(self.depth)
        intrinsics = self.intrinsics * [[factor], [factor], [1]]
        return self._replace(depth=_enlarged(self.depth), intrinsics=intrinsics)


@dataclass(frozen=True, slots=True)
class Crops(TargetFiles):
    """Reads the i-th photograph of a list, its depth and its normals, cropped; can be pickled."""

    shots: Sequence[Shot]

    @classmethod
    def of(cls, root: Path, shots: Sequence[Shot]) -> "Crops":
        """Return the crops of photographs below ``root``."""
        return cls(root, [shot.image for shot in shots], [shot.depth for shot in shots], shots)

    def image(self, index: int) -> Image.Image:
        """Return the colours of a crop."""
        return Image.fromarray(self._colours(index, self.crop(index)))

    def __call__(self, index: int) -> Float32[np.ndarray, "s s"]:
        """Return metres, 0 where unknown."""
        return self.crop(index).depth

    def normals(self, index: int) -> Float32[np.ndarray, "s s 3"]:
        """Return unit normals towards the camera, 0 where unknown."""
        crop = self.crop(index)
        return normals_of(crop.depth, crop.intrinsics, _RADIUS, _EDGE)

    def enlarged(self, index: int) -> tuple[Image.Image, Crop]:
        """Return the colours and the geometry of a crop, both enlarged to the nearest pixels."""
        crop = self.crop(index)
        return Image.fromarray(_enlarged(self._colours(index, crop))), crop.enlarged()

    def crop(self, index: int) -> Crop:
        """Return where the object is, and its depth; DataError where there is none."""
        shot, path = self.shots[index], self.root / self.targets[index]
        stored = self.stored(index, ("I;16", "I;16B", "I"), "inverse depth of 16 bits", any_size=True)
        _refuse_size(path, stored, shot)
        inverse = _square(Image.fromarray(stored.astype(np.int32)), Image.Resampling.NEAREST)
        known = inverse > 0
        top, left, side = _around(known, path)
        place = slice(top, top + side), slice(left, left + side)
        depth = np.divide(_UNITS, inverse, out=np.zeros(known.shape), where=known)[place]
        focal, centre = shot.focal * _SIDE / min(shot.size), _SIDE / 2
        camera = np.array([[focal, 0, centre - left], [0, focal, centre - top], [0, 0, 1]])
        return Crop(place, depth.astype(np.float32), camera)

    def fingerprint_of_shots(self, *, full_hash: bool) -> str:
        """Return the hash of all files and cameras."""
        cameras = [[*shot.size, shot.focal, *shot.pose.flat] for shot in self.shots]
        return self.fingerprint(cameras, full_hash=full_hash)

    def _colours(self, index: int, crop: Crop) -> UInt8[np.ndarray, "s s 3"]:
        path = self.root / self.images[index]
        try:
            image = ImageOps.exif_transpose(decode(path, str(path)))
        except DAMAGED as error:
            raise DataError(f"{path}: its EXIF cannot be read ({error}); remove it") from error
        _refuse_size(path, np.asarray(image), self.shots[index])
        # resize_image of probe3d says bicubic, and passes the number of PIL's bilinear filter.
        return _square(image, Image.Resampling.BILINEAR)[crop.place]


def _refuse_size(path: Path, pixels: Shaped[np.ndarray, "H W *c"], shot: Shot) -> None:
    (rows, columns), (height, width) = pixels.shape[:2], shot.size
    if (rows, columns) != (height, width):
        raise DataError(
            f"{path}: {columns}x{rows} pixels, and annotated as {width}x{height}; keep the files as published"
        )


def _square(image: Image.Image, resampling: Image.Resampling) -> Shaped[np.ndarray, "p p *c"]:
    """Return the central square of an image, as probe3d stores and then reduces it.

    Source:
        resize_navi.py of probe3d; torchvision's ``Resize`` of tensors to nearest pixels, and ``CenterCrop``.
    """
    factor = float(_STORED) / min(image.size)
    width, height = (int(side * factor) for side in image.size)
    stored = np.asarray(image.resize((width, height), resampling))
    rows, columns = map(_central, (height, width))
    return stored[rows][:, columns]


def _central(length: int) -> Int[np.ndarray, " p"]:
    fewer = length * _SIDE // _STORED
    start = margin(fewer - _SIDE, "even")
    return (np.arange(fewer) * length // fewer)[start : start + _SIDE]


def _around(known: Bool[np.ndarray, "p p"], path: Path) -> tuple[int, int, int]:
    """Return top, left and side of the square around what is known.

    Source:
        ``bbox_crop`` of probe3d, which leaves out the last row and column.
    """
    if np.count_nonzero(known) < 2:
        raise DataError(f"{path}: no object in the central square; keep the files as published")
    rows, columns = (np.flatnonzero(known.any(axis)) for axis in (1, 0))
    first, last = np.array([(rows[end], columns[end]) for end in (0, -1)])
    side = int((last - first).max())
    lacking = side - (last - first)
    start = first - lacking // 2
    if (start < 0).any() or (start + side > len(known)).any():
        start = np.maximum(first - lacking, 0)
    top, left = start.tolist()
    return top, left, side


def _enlarged(pixels: Shaped[np.ndarray, "s s *c"]) -> Shaped[np.ndarray, "p p *c"]:
    nearest = np.arange(_SIDE) * len(pixels) // _SIDE
    return pixels[nearest][:, nearest]
