"""NYU depth v2 with GeoNet's surface normals: 795 images to fit on and 654 to score, rooms, 480 x 640.

The copy is the folder `nyuv2` of DSINE's archive dsine_eval.zip: NAME_img.png, and NAME_normal.png with the
normals as colours. Axes are those of the archive, the same in both splits. GeoNet's own files (30,907 frames
of video to fit on, and test normals in MATLAB 7.3) are not read.
"""

from pathlib import Path

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.dense import by_stem
from ssleval.datasets.files.normals import NormalFiles
from ssleval.datasets.published import Copy, first_folder, published
from ssleval.errors import DataError

CARD = DatasetCard(
    name="nyuv2_normals",
    target="normals",
    lengths={"train": 795, "test": 654},
    license="not stated, research",
    source="Silberman et al. 2012, Qi et al. 2018 (GeoNet), Bae and Davison 2024; dsine_eval.zip (size not "
    "stated) of https://github.com/baegwangbin/DSINE: the content of its folder nyuv2/ in nyuv2_normals/",
)


@published(
    CARD, "train/000002_img.png", "train/000002_normal.png", "test/000000_img.png", "test/000000_normal.png"
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read SPLIT/NAME_img.png and SPLIT/NAME_normal.png."""
    base = first_folder(root, (".", "nyuv2", "dsine_eval/nyuv2"), "train", "test")

    def open_split(split: str) -> Split:
        path_of = by_stem(base, split)
        names = [name.removesuffix("_img") for name in path_of if name.endswith("_img")]
        alone = [name for name in names if f"{name}_normal" not in path_of]
        if alone:
            raise DataError(
                f"{base / split}: {alone[0]}_img has no {alone[0]}_normal ({len(alone)} such images)"
            )
        images, normals = ([path_of[f"{name}_{kind}"] for name in names] for kind in ("img", "normal"))
        return NormalFiles(base, images, normals).split(["normals"], full_hash=options.full_hash)

    return Copy((), open_split)
