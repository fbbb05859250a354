"""Commands that write pictures and files of the embedded set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ssleval.cli import app
from ssleval.errors import ConfigError


def test_the_contact_sheet_is_a_colourful_picture(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["show", "scenes", "--out", str(tmp_path / "sheet.png")])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    with Image.open(Path(__file__).parents[1] / "docs" / "images" / "scenes.png") as shown:
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
