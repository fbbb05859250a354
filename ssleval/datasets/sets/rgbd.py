"""rgbd:PATH, colour images with 16-bit depth: your own depth data. rgbd_normals:PATH, with surface normals.

There are two layouts. The first is PATH/train/ and PATH/test/, each with rgb/ and depth/, whose files have
equal names and any extension. The second is one sequence of NAME.color.EXT and NAME.depth.png, as in
7-Scenes. The test split of a sequence is its last fifth in order of names, because neighbouring frames are
nearly equal. PATH/depth.yaml may set `scale` (stored units per metre, default 1000), `invalid` (stored values
of unknown depth, default 0 and 65535) and `max_depth` (metres, default 10).

Normals are differenced from depth, with the matrix in PATH/camera-intrinsics.txt (that of 7-Scenes if its
frames have none). For them, depth.yaml may set `radius` (pixels to each side, over which depth is averaged
before, default 3) and `edge` (part of the depth by which neighbours of one surface may differ, default 0.03).
"""

from pathlib import Path
from typing import Literal

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.cameras import sequence_intrinsics
from ssleval.datasets.files.dense import DepthFiles, color_sequence, depth_split, paired, read_format
from ssleval.datasets.files.normals import DifferencedDepth
from ssleval.datasets.files.places import located
from ssleval.errors import DataError


@datasets.register("rgbd")
def rgbd(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder of colour images with depth."""
    return _opened("rgbd", "depth", location, options)


@datasets.register("rgbd_normals")
def rgbd_normals(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder of colour images with the normals of their depth."""
    return _opened("rgbd_normals", "normals", location, options)


def _opened(
    source: str, target: Literal["depth", "normals"], location: str, options: DatasetOptions
) -> Dataset:
    root = located(source, location)
    form = read_format(root / "depth.yaml")
    names: list[str] = []
    if (root / "train").is_dir():
        files = {split: paired(root, f"{split}/rgb", f"{split}/depth") for split in ("train", "test")}
    else:
        names, files = _sequence(source, root)
    intrinsics = sequence_intrinsics(source, root, names) if target == "normals" else None

    def open_split(split: str) -> Split:
        depths = DepthFiles(root, *files[split], form.scale, form.invalid)
        if intrinsics is None:
            return depth_split(depths, full_hash=options.full_hash)
        return DifferencedDepth(depths, intrinsics, form).split(full_hash=options.full_hash)

    name, lengths = f"{source}:{location}", {split: len(images) for split, (images, _) in files.items()}
    farthest = form.max_depth if target == "depth" else 0.0
    card = DatasetCard(name, target, lengths=lengths, max_depth=farthest, source=str(root))
    return Dataset(card, open_split)


def _sequence(source: str, root: Path) -> tuple[list[str], dict[str, tuple[list[str], list[str]]]]:
    names, images, depths = color_sequence(root)
    if len(images) < 2:
        raise DataError(
            f"{source}:{root}: needs train/ and test/, or two images NAME.color.EXT; found neither"
        )
    cut = len(images) - -(-len(images) // 5)
    return names, {"train": (images[:cut], depths[:cut]), "test": (images[cut:], depths[cut:])}
