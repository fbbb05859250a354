"""A sound model passes every check, and for each check there is a model wired wrongly that fails it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ssleval.backbones.loaders.native import NativeBackbone
from ssleval.backbones.zoo import load
from ssleval.checks.doctor import Finding, diagnose, examine, wiring
from ssleval.checks.doctor import weights as loaded
from ssleval.checks.doctor.scores import score_checks, shuffled
from ssleval.cli import main
from ssleval.core import BackboneCard, Context, DatasetOptions
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError

CARD = BackboneCard("sound", "test", "sound", embed_dim=48, patch_size=16, image_size=64)
LIMIT = 60
CONTEXT = Context(progress=False)


class Sound(Backbone):
    """Linear patches, a token that glances at the whole image, two blocks, a final norm."""

    def __init__(self, card: BackboneCard = CARD, seed: int = 7) -> None:
        super().__init__(card, num_blocks=2)
        generator = torch.Generator().manual_seed(seed)
        self.embed = nn.Conv2d(3, 48, 16, 16)
        self.glance = nn.Linear(3 * 64, 48)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.LayerNorm(48)
        for parameter in (*self.embed.parameters(), *self.glance.parameters()):
            nn.init.normal_(parameter, std=0.1, generator=generator)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        grid, token = self.embed(images).permute(0, 2, 3, 1), self.token(images)
        close = self.norm if norm else nn.Identity()
        found = [Tokens(close(grid * (1 + block)), close(token * (1 + block))) for block in range(2)]
        return Features(self.norm(2 * token), tuple(found[block] for block in blocks))

    def token(self, images: Tensor) -> Tensor:
        return self.drop(self.glance(functional.adaptive_avg_pool2d(images, 8).flatten(1)))


class Training(Sound):
    def token(self, images: Tensor) -> Tensor:
        self.drop.train()
        return super().token(images)


class Counting(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def token(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().token(images)


class Noisy(Sound):
    def token(self, images: Tensor) -> Tensor:
        return super().token(images) + torch.rand(48)


class Denser(Sound):
    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        return super().extract(functional.interpolate(images, scale_factor=2), blocks, norm=norm)


class Unnormed(Sound):
    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        return replace(super().extract(images, blocks, norm=norm), pooled=self.token(images))


class Transposed(Sound):
    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        found = super().extract(images, blocks, norm=norm)
        turned = (replace(one, patches=one.patches.transpose(1, 2)) for one in found.blocks)
        return replace(found, blocks=tuple(turned))


class Mixing(Sound):
    def token(self, images: Tensor) -> Tensor:
        token = super().token(images)
        return token - token.mean(0)


class Coarse(Sound):
    """Subtracts what half precision cannot hold beside the rest."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.glance.bias, 1e4)

    def token(self, images: Tensor) -> Tensor:
        return super().token(images) - 1e4


class Infinite(Sound):
    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        found = super().extract(images, blocks, norm=norm)
        return replace(found, pooled=found.pooled / 0)


class Blind(Sound):
    """Sees how bright an image is, and no more."""

    def token(self, images: Tensor) -> Tensor:
        return super().token(images.mean((1, 2, 3), keepdim=True).expand(images.shape))


class Collapsed(Sound):
    def token(self, images: Tensor) -> Tensor:
        return torch.linspace(-1, 1, 48) + 1e-4 * super().token(images)


class Clairvoyant(Sound):
    """Knows the label of every image it will be shown, in the order of the first time."""

    def __init__(self, labels: np.ndarray) -> None:
        super().__init__()
        self.labels = torch.from_numpy(labels)
        self.shown: dict[bytes, int] = {}

    def token(self, images: Tensor) -> Tensor:
        # Beyond the last it begins again: one more is shown to tell what an image costs.
        places = [
            self.shown.setdefault(image.numpy().tobytes(), len(self.shown) % len(self.labels))
            for image in images
        ]
        return functional.one_hot(self.labels[places], 48).float()


WIRING: dict[str, Callable[[Backbone], Finding]] = {
    "mode": wiring.mode,
    "determinism": wiring.determinism,
    "pooling": wiring.pooling,
    "patch order": wiring.patch_order,
    "batches": wiring.batches,
    "precision": lambda backbone: wiring.precision(backbone, CONTEXT),
    "bf16": lambda backbone: wiring.precision(backbone, replace(CONTEXT, precision="bf16")),
}


@pytest.mark.parametrize("check", WIRING)
def test_a_sound_model_is_wired_correctly(check: str) -> None:
    assert WIRING[check](Sound().eval()).status == "pass"


@pytest.mark.parametrize(
    ("wrong", "check", "evidence"),
    [
        (Training, "mode", "training mode: drop"),
        (Counting, "mode", "changed by it: seen"),
        (Noisy, "determinism", "differ by"),
        (Unnormed, "pooling", "class token"),
        (Transposed, "patch order", "row 0, column 3 moves row 3, column 0"),
        (Mixing, "batches", "alone and in a batch"),
        (Infinite, "precision", "not finite in fp32"),
        (Coarse, "bf16", "bf16 0."),
    ],
)
def test_a_model_wired_wrongly_fails(wrong: type[Sound], check: str, evidence: str) -> None:
    finding = WIRING[check](wrong().eval())
    assert finding.status == "fail"
    assert evidence in finding.evidence
    assert finding.advice


def test_half_precision_that_was_not_asked_for_is_a_warning() -> None:
    assert WIRING["precision"](Coarse().eval()).status == "warn"


def test_a_pooling_that_is_no_token_is_not_compared() -> None:
    assert wiring.pooling(Sound(replace(CARD, pooling="map")).eval()).status == "skip"
    assert wiring.pooling(Sound(replace(CARD, pooling="mean")).eval()).status == "warn"


def test_tokens_that_do_not_fit_the_grid_fail() -> None:
    finding = next(one for one in diagnose(Denser().eval(), CONTEXT) if one.check == "tokens")
    assert finding.status == "fail"
    assert "patches (2, 8, 8, 48), expected (2, 4, 4, 48)" in finding.evidence


def test_a_size_the_model_refuses_is_said() -> None:
    class Fixed(Sound):
        def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
            if images.shape[-1] != images.shape[-2]:
                raise ConfigError("64x64 only")
            return super().extract(images, blocks, norm=norm)

    assert wiring.tokens(Fixed().eval()).evidence.endswith("this size only")
    assert wiring.tokens(Sound().eval()).evidence == (
        "4x4 patches of 16 pixels, class token, 0 registers; other sizes and aspects too"
    )


def test_weights_left_as_initialised_fail() -> None:
    def untrained(seed: int) -> Sound:
        return Sound(seed=seed)

    assert loaded.weights(Sound(), untrained).status == "pass"
    half = Sound()
    half.embed.load_state_dict(untrained(0).embed.state_dict())
    finding = loaded.weights(half, untrained)
    assert finding.status == "fail"
    assert "1 of 2 tensors are as initialised at random: embed.weight" in finding.evidence


def test_weights_that_are_not_finite_or_constant_are_found() -> None:
    backbone = Sound()
    nn.init.zeros_(backbone.embed.weight)
    assert loaded.weights(backbone, lambda seed: Sound(seed=seed)).status == "warn"
    nn.init.constant_(backbone.norm.bias, float("nan"))
    assert loaded.weights(backbone, None).evidence == "not finite: norm.bias"


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    return Sound(card)


def test_preprocessing_is_compared_with_the_card_and_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded.preprocessing(Sound()).status == "pass"
    wrong = Sound()
    wrong.mean.fill_(0.5)
    assert "the card says (0.485" in loaded.preprocessing(wrong).evidence
    backbones.register("stating")(Loader(lambda arch: replace(CARD, arch=arch, resize=72), _build))
    monkeypatch.setattr(loaded, "_LIBRARIES", ("stating",))
    stated = replace(CARD, loader="stating")
    assert loaded.preprocessing(Sound(replace(stated, resize=72))).status == "pass"
    assert loaded.preprocessing(Sound(stated)).evidence == "resize 0, stating states 72"
    assert loaded.preprocessing(Sound(stated)).status == "warn"
    other = replace(stated, resize=72, std=(0.5, 0.5, 0.5))
    assert loaded.preprocessing(Sound(other)).status == "fail"
    assert loaded.preprocessing(Sound(replace(other, weights={"file": "own.pth"}))).status == "warn"


def scored(check: str, backbone: Backbone, folder: Path) -> str:
    checks = dict(score_checks(backbone.eval(), replace(CONTEXT, cache=folder), LIMIT))
    return checks[check]().status


def test_scores_of_wrong_models_fail(tmp_path: Path) -> None:
    # Folders of their own: these models have equal weights.
    assert scored("pixel floor", Blind(), tmp_path / "blind") == "fail"
    assert scored("spectrum", Collapsed(), tmp_path / "collapsed") == "fail"
    digits = shuffled(open_dataset("digits", DatasetOptions()).limited(LIMIT))
    labels = np.concatenate([digits.split(name).targets for name in ("train", "test")])  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert scored("shuffled", Clairvoyant(labels), tmp_path / "clairvoyant") == "fail"


def test_an_untrained_model_is_no_patient_for_the_floor(tmp_path: Path) -> None:
    untrained = Blind(replace(CARD, supervision="none"))
    assert scored("pixel floor", untrained, tmp_path) == "skip"
    filled = Blind(replace(untrained.card, weights={"file": "mine.pth"}))
    assert scored("pixel floor", filled, tmp_path) == "fail"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["ssleval", "doctor", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_page_of_a_sound_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plug = tmp_path / "plug.py"
    plug.write_text("from tests.checks.test_doctor import Sound, Transposed\n")
    assert run(monkeypatch, f"{plug}:Sound", "--limit", str(LIMIT), "--json") == 0
    found = {row["check"]: row["status"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    names = "weights, preprocessing, tokens, pooling, patch order, mode, determinism, batches, precision, "
    assert list(found) == [*(names + "pixel floor, shuffled, spectrum").split(", ")]
    assert set(found.values()) == {"pass"}
    assert run(monkeypatch, f"{plug}:Transposed", "--limit", str(LIMIT)) == 1
    out = capsys.readouterr().out
    assert "fail  patch order" in out
    assert "fail  tokens" in out, "not square, a transposed grid does not fit either"
    assert "10 pass, 0 warn, 2 fail, 0 skip" in out


def test_weights_that_do_not_load_are_the_whole_page(tmp_path: Path) -> None:
    (finding,) = examine("vit_tiny", CONTEXT, checkpoint=tmp_path / "absent.pth")
    assert (finding.check, finding.status) == ("weights", "fail")
    assert "there is no such file" in finding.evidence


class Everywhere(Sound):
    """Lets a token of its first block look at bright patches wherever they are."""

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        found = super().extract(images, blocks, norm=norm)
        bright = functional.avg_pool2d(images.mean(1, keepdim=True), 16).amax((2, 3)).clamp_min(1.8) - 1.8
        first = found.blocks[0].patches.clone()
        first[:, 0, 0] += 60 * bright
        return replace(found, blocks=(replace(found.blocks[0], patches=first), *found.blocks[1:]))


class EverywhereTransposed(Everywhere, Transposed):
    """The same, its grid turned."""


def test_a_model_whose_tokens_all_look_at_a_bright_patch_is_asked_otherwise() -> None:
    assert wiring._brightened(Everywhere().eval()).status == "fail"
    finding = wiring.patch_order(Everywhere().eval())
    assert (finding.status, finding.evidence) == (
        "pass", "16 patches go best with their own tokens, in a 4x4 grid"
    )  # fmt: skip
    assert wiring.patch_order(EverywhereTransposed().eval()).status == "fail"


def test_tokens_that_never_move_are_in_no_order() -> None:
    class Still(Sound):
        def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
            return super().extract(torch.zeros_like(images), blocks, norm=norm)

    assert wiring.patch_order(Still().eval()).status == "fail"


def _flipped(grid: Tensor) -> Tensor:
    return grid.flip(1)


def _shifted(grid: Tensor) -> Tensor:
    return grid.roll(1, 2)


def _in_order(grid: Tensor) -> Tensor:
    return grid


@pytest.mark.parametrize("turn", [_flipped, _shifted, _in_order])
def test_the_embedded_checkpoint_has_its_patches_in_order_and_is_caught_without(
    turn: Callable[[Tensor], Tensor],
) -> None:
    backbone, extract = load("dino_scenes"), NativeBackbone.extract

    def turned(images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        found = extract(backbone, images, blocks, norm=norm)  # pyright: ignore[reportArgumentType]
        return replace(found, blocks=tuple(replace(one, patches=turn(one.patches)) for one in found.blocks))

    backbone.extract = turned
    assert wiring.patch_order(backbone).status == ("pass" if turn is _in_order else "fail")


@pytest.mark.parametrize(
    ("image_size", "refuses", "side"), [(64, False, 64), (512, False, 224), (512, True, 512)]
)
def test_a_model_of_large_images_is_checked_at_the_size_of_published_evaluations(
    image_size: int, refuses: bool, side: int, tmp_path: Path
) -> None:
    sides: set[int] = set()

    class Sized(Sound):
        def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
            if refuses and images.shape[-1] != image_size:
                raise ValueError(f"{image_size} pixels only")
            sides.add(images.shape[-1])
            return super().extract(images, blocks, norm=norm)

    backbone = Sized(replace(CARD, image_size=image_size)).eval()
    assert wiring.probes(backbone, 1).shape[-1] == side
    assert scored("spectrum", backbone, tmp_path) == "pass"
    assert sides == {side}
