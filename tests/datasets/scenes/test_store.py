from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssleval.datasets.scenes import store
from ssleval.datasets.scenes.export import export
from ssleval.datasets.scenes.items import SPLITS, item
from ssleval.datasets.scenes.render import IGNORE
from ssleval.datasets.scenes.sheet import draw_sheet, painted
from ssleval.errors import ConfigError, DataError, UnknownNameError

LENGTHS = {"train": 3, "test": 3, "video": 2}


@pytest.fixture(scope="module")
def hashes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the first items of a split hash to, rendered in this process."""
    found = dict(store.golden())
    for split, length in LENGTHS.items():
        folder = tmp_path_factory.mktemp(split)
        rows = [item(split, index) for index in range(length)]
        for name in rows[0]:
            np.save(folder / f"{name}.npy", np.stack([row[name] for row in rows]))
        found[split] = store.digest_of(folder)
    return found


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hashes: dict[str, str]) -> Path:
    """A cache for splits cut to two or three items, with the hashes these have."""
    for split, length in LENGTHS.items():
        monkeypatch.setitem(SPLITS, split, replace(SPLITS[split], length=length))  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(store, "golden", lambda: hashes)
    return tmp_path


def test_rendered_split_holds_the_items(short: Path) -> None:
    folder = store.open_split(short, "test")

    for name, value in item("test", 2).items():
        np.testing.assert_array_equal(store.array(folder, name)[2], value)
        assert store.array(folder, name).dtype == value.dtype
        assert len(store.array(folder, name)) == 3
    assert not store.array(folder, "image").flags.writeable
    assert not list(folder.parent.glob("*.partial"))


def test_second_open_renders_nothing(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.open_split(short, "video")
    monkeypatch.setattr(store, "render_split", None)

    assert store.open_split(short, "video") == folder


def test_what_was_left_of_an_interrupted_run_is_thrown_away(short: Path) -> None:
    left = short / store.VERSION / "test.partial"
    left.mkdir(parents=True)
    np.save(left / "stray.npy", np.zeros(3))

    folder = store.open_split(short, "test")

    assert not (folder / "stray.npy").exists()
    assert not left.exists()


def test_other_pixels_are_refused(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "golden", lambda: {"test": "0" * 64})

    with pytest.raises(DataError, match=r"scenes@1/test: rendered \w{12}, expected 000000000000"):
        store.open_split(short, "test")

    assert not (short / store.VERSION / "test").exists()


def test_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no split 'tset'"):
        store.open_split(tmp_path, "tset")


def test_failed_process_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.sys, "executable", "/bin/false")

    with pytest.raises(DataError, match="rendering items 0 to 1 stopped with exit status 1"):
        store.render_split(tmp_path / "test", "test", 2)


def test_digest_sees_every_byte_and_name(tmp_path: Path) -> None:
    for name, values in (("a", [1, 2]), ("b", [1, 3])):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", np.array(values))
    (tmp_path / "c").mkdir()
    np.save(tmp_path / "c" / "y.npy", np.array([1, 2]))

    assert len({store.digest_of(tmp_path / name) for name in "abc"}) == 3


def test_export_writes_what_other_tools_read(short: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    count = export(out, short)

    found = item("test", 1)
    files = list(out.rglob("*.png"))
    assert len(files) == count == 2 * 3 * 5 + 2 * 2
    assert (np.array(Image.open(out / "classification/test/block/00001.png")) == found["image"]).all()
    depth = np.array(Image.open(out / "depth/test/depth/test_00001.png"))
    assert depth.dtype == np.uint16
    assert (depth == found["depth"]).all()
    mask = np.array(Image.open(out / "voc/SegmentationClass/test_00001.png"))
    np.testing.assert_array_equal(mask[found["mask"] != IGNORE], found["mask"][found["mask"] != IGNORE] + 1)
    assert (mask[found["mask"] == IGNORE] == IGNORE).all()
    assert (out / "voc/ImageSets/Segmentation/val.txt").read_text().split()[1] == "test_00001"
    frame = Image.open(out / "davis/Annotations/480p/clip00/00001.png")
    assert frame.mode == "P"
    assert (np.array(frame) == item("video", 1)["instances"]).all()
    with pytest.raises(ConfigError, match="not empty"):
        export(out, short)


def test_export_writes_jpeg_on_request(short: Path, tmp_path: Path) -> None:
    export(tmp_path / "out", short, pictures="jpg")

    image = Image.open(tmp_path / "out/davis/JPEGImages/480p/clip00/00000.jpg")
    assert image.format == "JPEG"
    assert np.abs(np.array(image).astype(int) - item("video", 0)["image"]).mean() < 4


def test_painted_masks_keep_their_labels_in_the_colours_of_voc() -> None:
    labels = np.array([[0, 1, 2, 3], [20, 21, 22, 255]], np.uint8)

    image = painted(labels)

    assert (np.array(image) == labels).all()
    colors = np.array(image.convert("RGB"))
    assert colors[0].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colors[1].tolist() == [[0, 64, 128], [128, 64, 128], [0, 192, 128], [224, 224, 192]]


@pytest.mark.slow
def test_contact_sheet_is_a_picture(tmp_path: Path) -> None:
    draw_sheet(tmp_path / "sheet.png")

    sheet = np.array(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (8 * 208, 1920, 3)
    assert sheet.std() > 40
