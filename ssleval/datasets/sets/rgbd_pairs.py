"""rgbd_pairs:PATH, pairs of colour images with depth and the pose of their camera.

PATH holds one sequence of NAME.color.EXT, NAME.depth.png and NAME.pose.txt (4 x 4, camera to world, metres),
with camera-intrinsics.txt (3 x 3, pixels). A sequence of 7-Scenes has none: its own are taken, 585 pixels
around 320, 240. The export of a scene of ScanNet is read as well: color/N.jpg, depth/N.png, pose/N.txt and
intrinsic/intrinsic_depth.txt, where colour is resized to the depth (bilinear) and frames without a pose are
left out. The optional PATH/pairs.txt names two frames on every line. Without it, every frame is paired with
the first later frame whose camera is rotated by 15 degrees or more; a frame without such a later frame is
left out. PATH/depth.yaml is that of `rgbd:PATH`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64
from PIL import Image

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.targets import Views
from ssleval.datasets.files.cameras import read_matrix, sequence_intrinsics
from ssleval.datasets.files.dense import DepthFiles, FittedImages, by_stem, color_sequence, read_format
from ssleval.datasets.files.images import ImageFiles, file_rows, fingerprint
from ssleval.datasets.files.places import located
from ssleval.datasets.published import read_lines, read_text
from ssleval.errors import DataError

DEGREES = 15.0
"""Least rotation between the cameras of a pair, if there is no list of pairs."""
RIGID = 0.02
"""Largest deviation from the identity of a rotation times its transpose: files round, and sensors average."""
UNIT = np.array([0.0, 0.0, 0.0, 1.0])


@dataclass(frozen=True, slots=True)
class _Sequence:
    names: list[str]
    images: ImageFiles | FittedImages
    depths: DepthFiles
    poses: Float64[np.ndarray, "n 4 4"]
    intrinsics: Float64[np.ndarray, "3 3"]
    pairs: list[tuple[int, int]]

    def image(self, index: int) -> Image.Image:
        return self.images(self.pairs[index][0])

    def views(self, index: int) -> Views:
        first, second = self.pairs[index]
        return Views(
            names=(self.images.paths[first], self.images.paths[second]),
            partner=self.images(second),
            depths=(self.depths(first), self.depths(second)),
            intrinsics=(self.intrinsics, self.intrinsics),
            motion=np.linalg.inv(self.poses[second]) @ self.poses[first],
        )


@datasets.register("rgbd_pairs")
def rgbd_pairs(location: str, options: DatasetOptions) -> Dataset:
    """Open the frames of a folder in pairs."""
    root = located("rgbd_pairs", location)
    frames = _open(root)

    def open_split(split: str) -> Split:  # noqa: ARG001
        used = sorted({frame for pair in frames.pairs for frame in pair})
        paths = [
            path for frame in used for path in (frames.images.paths[frame], frames.depths.targets[frame])
        ]
        files = file_rows(root, paths, full_hash=options.full_hash)
        rows = [[*file, *frames.poses[used[row // 2]].flat] for row, file in enumerate(files)]
        reading = [frames.depths.scale, *frames.depths.invalid]
        rows += [reading, list(frames.intrinsics.flat), *map(list, frames.pairs)]
        ids = [f"{frames.names[first]}:{frames.names[second]}" for first, second in frames.pairs]
        return Split(ids, frames.image, None, fingerprint(rows), frames.views)

    lengths = {"test": len(frames.pairs)}
    return Dataset(
        DatasetCard(f"rgbd_pairs:{location}", "views", lengths=lengths, source=str(root)), open_split
    )


def _open(root: Path) -> _Sequence:
    scanned = all((root / name).is_dir() for name in ("color", "depth", "pose"))
    names, images, depths, pose_files = _scannet(root) if scanned else _in_one_folder(root)
    if len(images) < 2:
        raise DataError(f"rgbd_pairs:{root}: {len(images)} images NAME.color.EXT; a pair needs two")
    form = read_format(root / "depth.yaml")
    poses = np.stack([_pose(root / name) for name in pose_files])
    listed = root / "pairs.txt"
    pairs = _listed(listed, names) if listed.is_file() else _turned(poses)
    if not pairs:
        raise DataError(
            f"rgbd_pairs:{root}: no camera turns by {DEGREES:g} degrees from another; list pairs in pairs.txt"
        )
    depth_files = DepthFiles(root, images, depths, form.scale, form.invalid, any_size=scanned)
    files = FittedImages(depth_files) if scanned else ImageFiles(root, images)
    return _Sequence(names, files, depth_files, poses, _intrinsics(root, names, scanned=scanned), pairs)


_Frames: TypeAlias = tuple[list[str], list[str], list[str], list[str]]
"""Names of frames, and for each the files of its image, depth and pose."""


def _in_one_folder(root: Path) -> _Frames:
    names, images, depths = color_sequence(root)
    return names, images, depths, [f"{name}.pose.txt" for name in names]


def _scannet(root: Path) -> _Frames:
    image_of = by_stem(root, "color")
    # Numbers without leading zeros: 10 comes after 9.
    ordered = sorted(image_of, key=lambda name: (len(name.lstrip("0")), name))
    # A camera that was lost is written as -inf.
    names = [name for name in ordered if "inf" not in read_text(root / f"pose/{name}.txt")]
    depths, poses = [f"depth/{name}.png" for name in names], [f"pose/{name}.txt" for name in names]
    return names, [image_of[name] for name in names], depths, poses


def _intrinsics(root: Path, names: list[str], *, scanned: bool) -> Float64[np.ndarray, "3 3"]:
    if not scanned:
        return sequence_intrinsics("rgbd_pairs", root, names)
    places = [root / "intrinsic" / "intrinsic_depth.txt", root / "intrinsics_depth.txt"]
    return read_matrix(next((path for path in places if path.is_file()), places[0]), 4)[:3, :3]


def _pose(path: Path) -> Float64[np.ndarray, "4 4"]:
    pose = read_matrix(path, 4)
    turn = pose[:3, :3]
    if np.abs(turn.T @ turn - np.eye(3)).max() > RIGID or np.linalg.det(turn) < 0 or (pose[3] != UNIT).any():
        raise DataError(f"{path}: no rotation and shift; expected camera to world in metres")
    return pose


def _turned(poses: Float64[np.ndarray, "n 4 4"]) -> list[tuple[int, int]]:
    turns = poses[:, :3, :3]
    # The trace of the rotation from one camera to the other is 1 + 2 cos of its angle.
    cosines = (np.einsum("aij,bji->ab", turns, np.linalg.inv(turns)) - 1) / 2
    far = np.triu(cosines <= np.cos(np.radians(DEGREES)), 1)
    return [(int(frame), int(far[frame].argmax())) for frame in np.flatnonzero(far.any(1))]


def _listed(path: Path, names: list[str]) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for line in read_lines(path):
        frames = line.split()
        if len(frames) != 2 or not set(frames) <= set(names):
            raise DataError(f"{path}: {line.strip()!r}; expected the names of two frames of the folder")
        pairs.append((names.index(frames[0]), names.index(frames[1])))
    if len(set(pairs)) < len(pairs):
        raise DataError(f"{path}: a pair is listed twice; keep one of them")
    return pairs
