"""The examples of the page on adding a model work as printed."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from ssleval.backbones.zoo import find_card, load
from ssleval.cli import main
from ssleval.core.backbone import backbones
from ssleval.errors import UnknownNameError, WeightsError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-model.md").read_text(encoding="utf-8")
MODULES = ("stripes", "stripes_loader")
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install what the page prints as a package, for the time of a test."""
    for name, code in zip(MODULES, blocks("python"), strict=True):
        (tmp_path / f"{name}.py").write_text(code)
    points = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]
    lines = [
        f"[{group}]\n{name} = {value}\n" for group, entry in points.items() for name, value in entry.items()
    ]
    information = tmp_path / "stripes-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes\nVersion: 1\n")
    (information / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    list(backbones)
    monkeypatch.setattr(backbones, "_items", dict(backbones._items))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_the_code_of_the_page_passes_the_linter_and_the_formatter(folder: Path) -> None:
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        arguments = [*ruff, *command, "--config", str(ROOT / "pyproject.toml"), str(folder)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_model_of_the_page_gives_mean_colours(folder: Path) -> None:
    features = load(f"{folder}/stripes.py:stripes")(IMAGES, [-1])
    patches = features.blocks[0].patches
    assert patches.shape == (2, 2, 3, 3)
    backbone = load(f"{folder}/stripes.py:stripes")
    colours = (IMAGES[:, :, :32, 32:64].mean((2, 3)) - backbone.mean.flatten()) / backbone.std.flatten()
    assert torch.allclose(patches[:, 0, 1], colours, atol=1e-5)


def test_the_loader_of_the_page_is_found_by_its_entry_point(folder: Path) -> None:
    assert find_card("stripes:16").patch_size == 16
    assert load("stripes:16")(IMAGES, [-1]).blocks[0].patches.shape == (2, 4, 6, 3)
    with pytest.raises(UnknownNameError, match="stripes:wide: expected a patch size"):
        load("stripes:wide")
    with pytest.raises(WeightsError, match="no weights"):
        load("stripes:16", checkpoint="some.pth")


@pytest.mark.parametrize("model", ["stripes.py:stripes", "stripes:16"])
def test_the_commands_of_the_page_score_its_models(
    folder: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = (line for line in "".join(blocks("bash")).splitlines() if f"--model {model} " in line)
    results = ["--results", str(folder / "results"), "--cache", str(folder / "cache")]
    monkeypatch.setattr("sys.argv", [*command.split(), "--limit", "60", "--json", *results])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code in (0, None)
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (row["model"], row["task"], row["dataset"]) == (model, "knn", "digits")
