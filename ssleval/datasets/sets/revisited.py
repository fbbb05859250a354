"""Revisited Oxford and Paris buildings: landmarks with easy, hard and junk images.

Files as published: jpg/ and gnd_NAME.pkl, or gnd_NAME.json with the same content, in a folder of the set's
name. Images that are not in jpg/ are looked for in the folder itself, as oxbuild_images.tgz leaves them
there, and in folders below it, as paris_1.tgz and paris_2.tgz do (paris/BUILDING/). No code in the pickle is
run. The split ``queries`` holds whole query images, as DINO uses them. The split ``boxes`` holds the queries
cropped to the published boxes, as the benchmark defines them (``--split boxes``).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from ssleval.core import DatasetCard, DatasetOptions, Split, digest
from ssleval.core.targets import Groups
from ssleval.datasets.files.images import file_split, images_below, is_stray
from ssleval.datasets.files.plainpickle import read_plain_pickle
from ssleval.datasets.published import Copy, published, read_json
from ssleval.errors import DataError

Boxes: TypeAlias = tuple[tuple[float, ...], ...]
"""Left, top, right, bottom in pixels."""


def _cropped(image: Callable[[int], Image.Image], boxes: Boxes, index: int) -> Image.Image:
    left, top, right, bottom = (round(side) for side in boxes[index])
    return image(index).crop((left, top, right, bottom))


def read(name: str, root: Path, options: DatasetOptions) -> Copy:
    """Read the annotation of queries and gallery."""
    table = root / f"gnd_{name}.json"
    table = table if table.is_file() else root / f"gnd_{name}.pkl"
    content = read_json(table) if table.suffix == ".json" else read_plain_pickle(table)
    gallery, queries, groups, boxes = _checked(table, content)

    def open_split(split: str) -> Split:
        place = _places(root, [*gallery, *queries])
        paths = [place[image] for image in (gallery if split == "gallery" else queries)]
        files = file_split(root, paths, full_hash=options.full_hash)
        if split == "gallery":
            return files
        image = partial(_cropped, files.image, boxes) if split == "boxes" else files.image
        rows = [[part.tolist() for part in group[:3]] for group in groups]
        mark = digest([files.fingerprint, rows, boxes if split == "boxes" else None])
        return replace(files, image=image, fingerprint=mark, target=groups.__getitem__)

    return Copy((), open_split)


def _places(root: Path, images: list[str]) -> dict[str, str]:
    """Return where each image lies below the root."""
    places = {image: f"jpg/{image}.jpg" for image in images}
    if (root / places[images[0]]).is_file():
        return places
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not is_stray(path.name))
    found = [path.name for path in root.glob("*.jpg")]
    found += [path for folder in folders for path in images_below(str(root / folder), folder)]
    for path in sorted(found):
        image = PurePosixPath(path).stem
        if image in places and places[image] != f"jpg/{image}.jpg":
            raise DataError(f"{root}: {places[image]} and {path} have one name; keep one of them")
        if image in places:
            places[image] = path
    return places


def _checked(table: Path, content: Any) -> tuple[list[str], list[str], tuple[Groups, ...], Boxes]:
    try:
        gallery, queries = ([str(name) for name in content[key]] for key in ("imlist", "qimlist"))
        groups = tuple(_groups(entry, row) for row, entry in enumerate(content["gnd"]))
        boxes = tuple(tuple(map(float, entry["bbx"])) for entry in content["gnd"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{table}: expected imlist, qimlist and gnd with easy, hard, junk and bbx ({error!r}); "
            "fetch the file of the revisited annotation"
        ) from error
    rows = np.concatenate([np.zeros(0, np.int64), *(part for group in groups for part in group[:3])])
    outside = len(rows) > 0 and (rows.min() < 0 or rows.max() >= len(gallery))
    if len(groups) != len(queries) or outside or any(len(box) != 4 for box in boxes):
        raise DataError(
            f"{table}: {len(groups)} groups for {len(queries)} queries and {len(gallery)} images, or "
            "rows or boxes outside of them; fetch it again"
        )
    return gallery, queries, groups, boxes


def _groups(entry: Mapping[str, Any], row: int) -> Groups:
    easy, hard, junk = (np.asarray(entry[key], np.int64).reshape(-1) for key in ("easy", "hard", "junk"))
    return Groups(easy, hard, junk, group=row)


def _publish(name: str, gallery: int, images: str, *tree: str) -> None:
    card = DatasetCard(
        name=name,
        target="groups",
        lengths={"queries": 70, "boxes": 70, "gallery": gallery},
        train_split="gallery",
        test_split="queries",
        graded=True,
        license="images: their Flickr owners'; annotation: not stated",
        source=f"Radenovic et al. 2018, http://cmp.felk.cvut.cz/revisitop/: gnd_{name}.pkl, and {images} "
        f"as jpg/, in {name}/",
    )
    published(card, *tree, f"gnd_{name}.pkl")(partial(read, name))


_publish("roxford5k", 4_993, "oxbuild_images.tgz (1.9 GB)", "jpg/all_souls_000000.jpg")
_publish(
    "rparis6k",
    6_322,
    "paris_1.tgz and paris_2.tgz (2.5 GB)",
    "paris/defense/paris_defense_000000.jpg (or jpg/)",
)
