import pickle
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from ssleval.datasets.files.images import (
    ImageFiles,
    class_files,
    class_folders,
    decode,
    file_split,
    fingerprint,
)
from ssleval.errors import ConfigError, DataError


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int, high: int = 256, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def test_colour_is_kept_exactly() -> None:
    pixels = noise(7, 9, 3)
    image = decode(encoded(Image.fromarray(pixels), "PNG"), "x")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_dropped(channels: int) -> None:
    pixels = noise(7, 9, channels)
    decoded = np.asarray(decode(encoded(Image.fromarray(pixels), "PNG"), "x"))
    expected = pixels[..., :3] if channels == 4 else np.repeat(pixels[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(decoded, expected)


def test_palette_with_transparency_gives_its_colours_and_no_warning() -> None:
    image = Image.fromarray(noise(8, 8, high=4), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    indices = np.asarray(image)
    data = encoded(image, "PNG", transparency=bytes([0, 128, 255, 7]))
    table = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]], dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(decode(data, "x")), table[indices])


def test_cmyk_is_as_torchvision_reads_it(tmp_path: Path) -> None:
    from torchvision.datasets.folder import default_loader

    path = tmp_path / "x.jpg"
    Image.fromarray(noise(16, 16, 4), "CMYK").save(path)
    np.testing.assert_array_equal(np.asarray(decode(path, "x")), np.asarray(default_loader(str(path))))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_high_byte(kind: str) -> None:
    levels = noise(6, 6, high=65536, dtype=np.uint16)
    decoded = np.asarray(decode(encoded(Image.fromarray(levels), kind), "x"))
    np.testing.assert_array_equal(decoded, np.repeat((levels // 256).astype(np.uint8)[..., None], 3, axis=-1))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused(dtype: type) -> None:
    data = encoded(Image.fromarray(noise(4, 4, dtype=dtype)), "TIFF")
    with pytest.raises(DataError, match=r"scan\.tif.*no known range"):
        decode(data, "scan.tif")


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(Image.fromarray(noise(8, 16, 3)), "JPEG", exif=exif), "x").size == (16, 8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_image_names_its_file(tmp_path: Path, kind: str, kept: float) -> None:
    data = encoded(Image.fromarray(noise(40, 40, 3)), kind)
    path = tmp_path / "broken.img"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DataError, match=r"broken\.img.*cannot be decoded"):
        ImageFiles(tmp_path, ["broken.img"])(0)


def test_pil_set_to_accept_truncated_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ConfigError, match="LOAD_TRUNCATED_IMAGES"):
        decode(encoded(Image.fromarray(noise(4, 4, 3)), "PNG"), "x")


def test_decoding_survives_pickling(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (9, 8, 7)).save(tmp_path / "a.png")
    files = pickle.loads(pickle.dumps(ImageFiles(tmp_path, ["a.png"])))
    assert files(0).getpixel((0, 0)) == (9, 8, 7)


def write(root: Path, **files: bytes) -> Path:
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


def test_the_fingerprint_moves_with_what_decides_a_score_only(tmp_path: Path) -> None:
    root = write(tmp_path / "a", x=b"123", y=b"45")
    labels = np.array([0, 1])
    reference = file_split(root, ["x", "y"], labels).fingerprint
    moved = write(tmp_path / "b", x=b"123", y=b"45")
    assert file_split(moved, ["x", "y"], labels).fingerprint == reference
    changed = {
        "label": file_split(root, ["x", "y"], np.array([0, 0])),
        "order": file_split(root, ["y", "x"], np.array([1, 0])),
        "size": file_split(write(tmp_path / "c", x=b"1234", y=b"45"), ["x", "y"], labels),
        "fewer": file_split(root, ["x"], labels[:1]),
        "name": file_split(write(tmp_path / "d", x=b"123", z=b"45"), ["x", "z"], labels),
        "multilabel": file_split(root, ["x", "y"], np.eye(2, dtype=bool)),
    }
    prints = {reference, *(split.fingerprint for split in changed.values())}
    assert len(prints) == len(changed) + 1


def test_only_the_full_hash_sees_content(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", x=b"123"), write(tmp_path / "b", x=b"124")
    prints = {
        (full, root.name): file_split(root, ["x"], np.array([0]), full_hash=full).fingerprint
        for full in (False, True)
        for root in (first, second)
    }
    assert prints[False, "a"] == prints[False, "b"]
    assert prints[True, "a"] != prints[True, "b"]


def test_rows_do_not_run_into_each_other() -> None:
    assert fingerprint([["a", 1], ["b", 2]]) != fingerprint([["a", 1, "b", 2]])
    assert fingerprint([["a\n", 1]]) != fingerprint([["a", 1]])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png"):
        file_split(tmp_path, ["gone.png"], np.array([0]))


def listing(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_classes_sort_by_code_point_and_files_by_path(tmp_path: Path) -> None:
    root = listing(
        tmp_path, "b/2.jpg", "b/10.JPEG", "b/sub/1.Png", "B/x.webp", "a-b/x.tif", "a/z.bmp", "é/q.TIFF"
    )
    names = class_folders(root)
    assert names == ("B", "a", "a-b", "b", "é")
    paths, labels = class_files(root, names)
    assert [*paths] == [
        "B/x.webp", "a/z.bmp", "a-b/x.tif", "b/10.JPEG", "b/2.jpg", "b/sub/1.Png", "é/q.TIFF",
    ]  # fmt: skip
    assert labels.tolist() == [0, 1, 2, 3, 3, 3, 4]
    assert labels.dtype == np.int64


def test_hidden_and_stray_files_are_passed_over(tmp_path: Path) -> None:
    root = listing(
        tmp_path,
        "a/1.jpg",
        "a/Thumbs.db",
        "a/.DS_Store",
        "a/._1.jpg",
        "a/desktop.ini",
        ".git/x",
        "README.txt",
    )
    assert class_folders(root) == ("a",)
    paths, labels = class_files(root, ("a",))
    assert ([*paths], labels.tolist()) == (["a/1.jpg"], [0])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.jpg", "a/2.heic"], r"2\.heic.*not an image"),
        (["a/.hidden.jpg"], "no images in this class"),
        (["a/1.jpg", "loose.JPG"], r"loose\.JPG.*outside any class"),
        (["README.txt"], "no class folders"),
    ],
)
def test_what_cannot_be_counted_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    root = listing(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        class_files(root, class_folders(root))


@pytest.mark.parametrize("target", [".", "..", "../b"])
def test_links_that_lead_back_are_refused_before_they_are_followed(tmp_path: Path, target: str) -> None:
    root = listing(tmp_path, "a/1.jpg", "b/1.jpg")
    for name in ("x", "y", "z"):
        (root / "a" / name).symlink_to(target)
        (root / "b" / name).symlink_to("../a")
    with pytest.raises(DataError, match="a link to a folder that holds it"):
        class_files(root, ("a", "b"))


def test_links_to_other_folders_are_followed(tmp_path: Path) -> None:
    root = listing(tmp_path / "set", "a/1.jpg")
    (root / "a/more").symlink_to(listing(tmp_path / "elsewhere", "2.jpg"))
    assert [*class_files(root, ("a",))[0]] == ["a/1.jpg", "a/more/2.jpg"]


def tiff(bands: int, bits: int, photometric: int, extra: tuple[int, ...] = ()) -> bytes:
    """A TIFF of 4 x 3 pixels, written by hand: PIL writes none of other bands than its modes have."""
    data = bytes(value % 251 for value in range(12 * bands * bits // 8))
    entries = {256: [4], 257: [3], 258: [bits] * bands, 259: [1], 262: [photometric], 277: [bands], 278: [3]}
    entries |= {279: [len(data)], 284: [1], 273: [0]} | ({338: [*extra]} if extra else {})
    start, later, directory = 8 + 2 + 12 * len(entries) + 4, b"", b""
    lengths = sum(2 * len(values) for values in entries.values() if len(values) > 2)
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}H", *([start + lengths] if tag == 273 else values))
        if len(packed) > 4:
            packed, later = struct.pack("<I", start + len(later)), later + packed
        directory += struct.pack("<HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    return struct.pack("<4sIH", b"II*\0", 8, len(entries)) + directory + b"\0" * 4 + later + data


@pytest.mark.parametrize(
    ("bands", "bits", "photometric", "extra"),
    [
        (4, 8, 2, (0,)), (4, 8, 2, ()), (5, 8, 2, (0, 0)), (6, 8, 2, (0, 0, 0)), (4, 16, 2, (0,)),
        (2, 8, 1, (0,)), (5, 8, 5, (0,)), (13, 16, 1, (0,) * 12), (3, 8, 1, (0, 0)), (5, 8, 2, (1, 0)),
    ],
    ids=str,
)  # fmt: skip
def test_bands_that_are_no_colours_are_refused_with_the_way_out(
    bands: int, bits: int, photometric: int, extra: tuple[int, ...]
) -> None:
    with pytest.raises(DataError, match=r"^far\.tif: .*bands.*save them as RGB of 8 bits"):
        decode(tiff(bands, bits, photometric, extra), "far.tif")


@pytest.mark.parametrize(
    ("bands", "bits", "photometric", "extra"),
    [
        (3, 8, 2, ()),
        (4, 8, 2, (2,)),
        (4, 8, 2, (1,)),
        (3, 16, 2, ()),
        (1, 8, 1, ()),
        (2, 8, 1, (2,)),
        (4, 8, 5, ()),
    ],
    ids=str,
)
def test_colours_and_alpha_of_a_tiff_are_read_as_torchvision_reads_them(
    bands: int, bits: int, photometric: int, extra: tuple[int, ...]
) -> None:
    data = tiff(bands, bits, photometric, extra)
    with Image.open(BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(decode(data, "x")), np.asarray(image.convert("RGB")))


def test_of_several_pages_none_is_chosen_but_a_thumbnail_is_no_page() -> None:
    page, small = Image.fromarray(noise(6, 8, 3)), Image.fromarray(noise(3, 4, 3))
    stack = encoded(page, "TIFF", save_all=True, append_images=[page, page])
    with pytest.raises(DataError, match="a TIFF of 3 pages; save each page as an image"):
        decode(stack, "x")
    thumbnail = encoded(page, "TIFF", save_all=True, append_images=[small])
    np.testing.assert_array_equal(np.asarray(decode(thumbnail, "x")), noise(6, 8, 3))
