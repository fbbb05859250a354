"""Commands that write pictures and files of the embedded set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ssleval.cli.app import app
from ssleval.core import Dataset, DatasetCard, Split
from ssleval.core.targets import KeyPoints
from ssleval.display.pictures.gather import from_dataset
from ssleval.errors import ConfigError, DataError, UnknownNameError


def test_the_contact_sheet_is_a_colourful_picture(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["show", "scenes", "--out", str(tmp_path / "sheet.png")])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    with Image.open(Path(__file__).parents[2] / "docs" / "images" / "scenes.png") as shown:
        assert np.array_equal(pixels, np.asarray(shown.convert("RGB"))), (
            "docs/images/scenes.png is out of date"
        )
    assert pixels.reshape(-1, 3).std(0).min() > 30


def test_export_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    done = CliRunner().invoke(app, ["export", "scenes", str(tmp_path), "--cache", str(tmp_path / "cache")])
    assert isinstance(done.exception, ConfigError)
    with pytest.raises(ConfigError, match="not empty"):
        raise done.exception
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def show(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["show", *map(str, arguments)])
    if done.exception:
        raise done.exception
    return done.stdout.strip()


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    drawn = np.random.default_rng(0)
    paths = [tmp_path / f"photo{number}.png" for number in range(2)]
    for path in paths:
        Image.fromarray(drawn.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return paths


def test_files_are_drawn_without_a_name_of_a_command(tmp_path: Path, photos: list[Path]) -> None:
    out = tmp_path / "seen.png"
    for arguments in (
        ["pixels", *photos, "--what", "matches", "--size", "64", "--out", out],
        ["--what", "matches", "--size", "64", "--out", out, "pixels", *photos],
        ["model", "pixels", *photos, "--what", "matches", "--size", "64", "--out", out],
    ):
        assert show(*arguments) == str(out)
        with Image.open(out) as page:
            assert min(page.size) > 300
        out.unlink()


def test_without_images_rows_of_a_dataset_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["pixels", "--what", "retrieval", "--dataset", "digits"]
    assert show(*asked) == "retrieval.png"
    first = Path("retrieval.png").read_bytes()
    show(*asked, "--rows", "4,9,14")
    assert Path("retrieval.png").read_bytes() != first


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["pixles"], UnknownNameError, "did you mean pixels"),
        (["pixels", "absent.png"], DataError, "absent.png"),
        (["pixels", "a.png", "--rows", "1"], ConfigError, "files are given, and a dataset or rows as well"),
        (["pixels", "a.png", "--dataset", "digits"], ConfigError, "leave out one of them"),
        (["pixels", "--dataset", "digits", "--rows", "0,x"], ConfigError, "expected numbers with commas"),
        (["pixels", "--dataset", "digits", "--rows", "500"], ConfigError, "no row 500; it has 0 to 499"),
    ],
)
def test_what_cannot_be_shown_is_one_line(arguments: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        show(*arguments)


def test_a_pair_of_a_dataset_is_two_pictures() -> None:
    other = Image.new("RGB", (4, 4), (9, 9, 9))
    points = np.zeros((1, 2), np.float32)
    pair = KeyPoints(("first", "second"), other, points, points, (0, 0, 4, 4))

    def image(index: int) -> Image.Image:
        return Image.new("RGB", (4, 4))

    split = Split(["item"], image, None, "pairs", lambda _: pair)
    dataset = Dataset(DatasetCard("drawn", "pairs", lengths={"test": 1}), lambda _: split)
    assert [one.name for one in from_dataset(dataset, [0])] == ["item", "second"]
    assert from_dataset(dataset, [0])[1].image is other
