"""navi:PATH, objects photographed with depth and cameras; also navi_normals:PATH and navi_pairs:PATH.

PATH is NAVI as it is unpacked, version 1.0 or 1.5: OBJECT/SCENE/images/, depth/ and annotations.json, where a
scene is `wild_set` or begins with `multiview`; nothing else is read. Splits are cut as by probe3d: `trainval`
has the multiview scenes, `train` the first nine tenths of those of every object and `val` the others, `test`
the wild sets. Objects without both are left out, and every fourth image of a split counts, in order of names.

Images are cropped to the object, which is where depth is known. Depth is in metres, and heads are fitted up
to 1; normals are differenced from it, averaged over 2 pixels to each side. Pairs are of one wild set, their
cameras rotated by at most 120 degrees; the digest of both names draws the second image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from PIL import Image
from scipy.spatial.transform import Rotation

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets, digest
from ssleval.core.targets import Views
from ssleval.datasets.files.crops import Crops, Shot
from ssleval.datasets.files.images import is_stray
from ssleval.datasets.files.places import located
from ssleval.errors import DataError

_EVERY = 4
_MOST_TURNED = 120
_NARROW = 8
"""Longest side of an image per shortest: what is narrower would be enlarged without bound."""
_LARGEST = 1 << 26
"""Bytes of an annotations.json that is read; those of NAVI have some 100,000."""
_SOURCE = "Jampani et al. 2023, https://github.com/google/navi; splits of https://github.com/mbanani/probe3d"

_Length = Annotated[int, Meta(ge=1, le=1 << 15)]
_Number = Annotated[float, Meta(ge=-1e9, le=1e9)]


class _Camera(msgspec.Struct, frozen=True):
    q: tuple[_Number, _Number, _Number, _Number]
    """Rotation from the object to the camera, the real part first."""
    t: tuple[_Number, _Number, _Number]
    """Its shift in millimetres."""
    focal_length: Annotated[float, Meta(gt=0, le=1e9)]


class _Annotation(msgspec.Struct, frozen=True):
    filename: Annotated[str, Meta(pattern=r"^\w[\w -]*\.\w+\Z")]
    image_size: tuple[_Length, _Length]
    camera: _Camera


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Reads the i-th pair of a list: numbers of two images, and of their object; can be pickled."""

    crops: Crops
    pairs: Sequence[tuple[int, int, int]]

    def image(self, index: int) -> Image.Image:
        return self.crops.enlarged(self.pairs[index][0])[0]

    def views(self, index: int) -> Views:
        first, second, group = self.pairs[index]
        here, (partner, there) = self.crops.crop(first).enlarged(), self.crops.enlarged(second)
        poses = [self.crops.shots[number].pose for number in (first, second)]
        return Views(
            names=(self.crops.images[first], self.crops.images[second]),
            partner=partner,
            depths=(here.depth, there.depth),
            intrinsics=(here.intrinsics, there.intrinsics),
            motion=poses[1] @ np.linalg.inv(poses[0]),
            group=group,
        )


@datasets.register("navi")
def navi(location: str, options: DatasetOptions) -> Dataset:
    """Open the images of NAVI with their depth."""
    return _with_maps("navi", "depth", location, options)


@datasets.register("navi_normals")
def navi_normals(location: str, options: DatasetOptions) -> Dataset:
    """Open the images of NAVI with the normals of their depth."""
    return _with_maps("navi_normals", "normals", location, options)


@datasets.register("navi_pairs")
def navi_pairs(location: str, options: DatasetOptions) -> Dataset:
    """Open pairs of the images of NAVI."""
    root = located("navi_pairs", location)
    crops = Crops.of(root, [shot for wild, _ in _objects(root) for shot in wild])
    pairs = _drawn(crops.shots)
    if not pairs:
        raise DataError(f"navi_pairs:{root}: no two cameras of an object within {_MOST_TURNED} degrees")
    ids = [f"{crops.images[first]}:{Path(crops.images[second]).name}" for first, second, _ in pairs]

    def open_split(split: str) -> Split:  # noqa: ARG001
        files = _Pairs(crops, pairs)
        mark = digest([crops.fingerprint_of_shots(full_hash=options.full_hash), pairs])
        return Split(ids, files.image, None, mark, files.views)

    card = DatasetCard(f"navi_pairs:{location}", "views", lengths={"test": len(pairs)}, source=_SOURCE)
    return Dataset(card, open_split)


def _with_maps(
    source: str, target: Literal["depth", "normals"], location: str, options: DatasetOptions
) -> Dataset:
    root = located(source, location)
    listed: dict[str, list[Shot]] = {"train": [], "val": [], "trainval": [], "test": []}
    for wild, scenes in _objects(root):
        cut = len(scenes) * 9 // 10
        for split, parts in zip(listed, (scenes[:cut], scenes[cut:], scenes, [wild]), strict=True):
            listed[split] += [shot for scene in parts for shot in scene]
    crops = {split: Crops.of(root, shots[::_EVERY]) for split, shots in listed.items() if shots}

    def open_split(split: str) -> Split:
        files = crops[split]
        mark = files.fingerprint_of_shots(full_hash=options.full_hash)
        read = files if target == "depth" else files.normals
        return Split(files.images, files.image, None, digest([mark, target]), read, pictures=mark)

    card = DatasetCard(
        f"{source}:{location}",
        target,
        lengths={split: len(files.images) for split, files in crops.items()},
        train_split="trainval",
        max_depth=1.0 if target == "depth" else 0.0,
        source=_SOURCE,
    )
    return Dataset(card, open_split, pictures=f"navi:{location}")


def _objects(root: Path) -> list[tuple[list[Shot], list[list[Shot]]]]:
    """Return the wild set and the multiview scenes of every object that has both, in order of names."""
    found: list[tuple[list[Shot], list[list[Shot]]]] = []
    for name in _folders(root):
        scenes = _folders(root / name)
        several = [scene for scene in scenes if scene.startswith("multiview")]
        if "wild_set" in scenes and several:
            wild, *others = (_shots(root, f"{name}/{scene}") for scene in ("wild_set", *several))
            found.append((wild, others))
    if not found:
        raise DataError(
            f"{root}: no OBJECT/wild_set beside OBJECT/multiview...; name the folder of NAVI's objects"
        )
    return found


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not is_stray(path.name))


def _shots(root: Path, scene: str) -> list[Shot]:
    """Return the photographs of a scene in order of their names."""
    table = root / scene / "annotations.json"
    try:
        with table.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise DataError(f"{table}: more than {_LARGEST:,} bytes; no annotations of NAVI")
        entries = msgspec.json.decode(content, type=list[_Annotation])
    except OSError as error:
        raise DataError(f"{table}: {error.strerror}; every scene of NAVI has one") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{table}: no annotations of NAVI ({error}); fetch it again") from error
    shots = sorted((_shot(table, scene, entry) for entry in entries), key=lambda shot: shot.image)
    if not shots:
        raise DataError(f"{table}: no image is annotated; fetch it again")
    if len({shot.depth for shot in shots}) < len(shots):
        raise DataError(f"{table}: two images have one name; fetch it again")
    return shots


def _shot(table: Path, scene: str, entry: _Annotation) -> Shot:
    pose, camera = np.eye(4), entry.camera
    if np.linalg.norm(camera.q) < 1e-6:
        raise DataError(f"{table}: {entry.filename}: q = 0 is no rotation; fetch it again")
    if max(entry.image_size) > _NARROW * min(entry.image_size):
        height, width = entry.image_size
        raise DataError(f"{table}: {entry.filename}: no photograph has {width}x{height} pixels")
    pose[:3, :3] = Rotation.from_quat(np.roll(camera.q, -1)).as_matrix()
    pose[:3, 3] = np.array(camera.t) / 1000
    image, depth = f"images/{entry.filename}", f"depth/{PurePosixPath(entry.filename).stem}.png"
    return Shot(scene, f"{scene}/{image}", f"{scene}/{depth}", entry.image_size, camera.focal_length, pose)


def _drawn(shots: Sequence[Shot]) -> list[tuple[int, int, int]]:
    """Return pairs of images and the number of their object: for every fourth image another of its object.

    One without another that is turned so little has no pair.
    """
    pairs: list[tuple[int, int, int]] = []
    _, groups = np.unique([shot.scene for shot in shots], return_inverse=True)
    turns = np.stack([shot.pose[:3, :3] for shot in shots])
    for first in range(0, len(shots), _EVERY):
        # The trace of the rotation from one camera to the other is 1 + 2 cos of its angle.
        traces = np.einsum("ij,aij->a", turns[first], turns)
        near = (groups == groups[first]) & (traces >= 1 + 2 * np.cos(np.radians(_MOST_TURNED)))
        near[first] = False
        others = {
            digest([shots[first].image, shots[one].image]): one for one in np.flatnonzero(near).tolist()
        }
        if others:
            pairs.append((first, others[min(others)], int(groups[first])))
    return pairs
