"""Every command that loads a model with weights takes how their images are prepared."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import save_file

from ssleval.backbones.vit import SIZES
from ssleval.backbones.zoo import load
from tests.cli.test_cli import Cli, cli

__all__ = ["cli"]

STATED = [
    "--image-mean", "0.5", "--image-std", "0.5,0.5,0.25", "--image-size", "32", "--patch-size", "8",
    "--resize", "40", "--interpolation", "bilinear", "--resize-mode", "square",
]  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(SIZES, "vit_tiny", (48, 2, 3))
    backbone: Any = load("random:native:vit_tiny", card={"image_size": 32, "patch_size": 8})
    save_file(backbone.vit.state_dict(), tmp_path / "weights.safetensors")
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    (tmp_path / "suite.yaml").write_text(
        "measurements:\n  - {task: knn, dataset: digits, settings: {ks: [1]}}\n"
    )
    return "weights.safetensors"


FAST = ["--model", "native:vit_tiny", "--limit", "5"]
DIGITS = ["--dataset", "digits", "--set", "knn.ks=1"]
COMMANDS = {
    "run": ["run", *FAST, *DIGITS],
    "dry run": ["run", *FAST, *DIGITS, "--dry-run"],
    "doctor": ["doctor", "native:vit_tiny"],
    "show": ["show", "native:vit_tiny", "image.png"],
    "gate": ["gate", *FAST, "--suite", "suite.yaml", "--baseline", "pixels"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_state_no_normalisation_are_refused(cli: Cli, weights: str, command: str) -> None:
    option = "--candidate" if command == "gate" else "--checkpoint"
    code, out, err = cli(*COMMANDS[command], option, weights)
    assert (code, out) == (2, ""), err
    assert "state --image-mean and --image-std" in err.splitlines()[-1]
    code, out, err = cli(*COMMANDS[command], option, weights, "--image-mean", "7", "--image-std", "0.5")
    assert (code, out) == (2, "")
    assert "native:vit_tiny: card.mean=7,7,7: expected a number <= 1" in err


def test_run_records_all_that_is_stated(cli: Cli, weights: str) -> None:
    settings = ["--set", "knn.preprocessing=card", "--json"]
    code, out, err = cli(*COMMANDS["run"], "--checkpoint", weights, *STATED, *settings)
    assert code == 0, err
    card = json.loads(out)["backbone"]
    assert card["mean"] == [0.5, 0.5, 0.5]
    assert card["std"] == [0.5, 0.5, 0.25]
    assert (card["image_size"], card["patch_size"], card["resize"]) == (32, 8, 40)
    assert (card["interpolation"], card["resize_mode"]) == ("bilinear", "square")


def test_several_models_share_no_normalisation(cli: Cli) -> None:
    half = ["--image-mean", "0.5", "--image-std", "0.5"]
    code, _, err = cli("run", "--model", "pixels,random:vit_tiny", *half)
    assert code == 2
    assert "--image-mean and the like fit one model, not 2" in err
