"""rgbd:PATH, colour images with 16-bit depth: your own depth data.

There are two layouts. The first is PATH/train/ and PATH/test/, each with rgb/ and depth/, whose files have
equal names and any extension. The second is one sequence of NAME.color.EXT and NAME.depth.png, as in
7-Scenes. The test split of a sequence is its last fifth in order of names, because neighbouring frames are
nearly equal. PATH/depth.yaml may set `scale` (stored units per metre, default 1000), `invalid` (stored values
of unknown depth, default 0 and 65535) and `max_depth` (metres, default 10).
"""

from pathlib import Path

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.dense import DepthFiles, color_sequence, depth_split, paired, read_format
from ssleval.errors import ConfigError, DataError


@datasets.register("rgbd")
def rgbd(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder of colour images with depth."""
    if not location:
        raise ConfigError("rgbd: needs a path; write rgbd:PATH")
    root = Path(location).expanduser()
    form = read_format(root / "depth.yaml")
    if (root / "train").is_dir():
        files = {split: paired(root, f"{split}/rgb", f"{split}/depth") for split in ("train", "test")}
    else:
        files = _sequence(root)

    def open_split(split: str) -> Split:
        depths = DepthFiles(root, *files[split], form.scale, form.invalid)
        return depth_split(depths, full_hash=options.full_hash)

    name, lengths = f"rgbd:{location}", {split: len(images) for split, (images, _) in files.items()}
    card = DatasetCard(name, "depth", lengths=lengths, max_depth=form.max_depth, source=str(root))
    return Dataset(card, open_split)


def _sequence(root: Path) -> dict[str, tuple[list[str], list[str]]]:
    _, images, depths = color_sequence(root)
    if len(images) < 2:
        raise DataError(f"rgbd:{root}: needs train/ and test/, or two images NAME.color.EXT; found neither")
    cut = len(images) - -(-len(images) // 5)
    return {"train": (images[:cut], depths[:cut]), "test": (images[cut:], depths[cut:])}
