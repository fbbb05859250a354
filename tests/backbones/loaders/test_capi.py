"""CAPI's transformer against its formulas, and a file of exactly the published layout."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ssleval.backbones.capi import CapiConfig
from ssleval.backbones.loaders import capi
from ssleval.backbones.zoo import find_card, load
from ssleval.errors import UnknownNameError, WeightsError

TINY = CapiConfig(embed_dim=32, depth=2, num_heads=2)
ROWS, COLUMNS = 3, 4
IMAGES = torch.rand(2, 3, 14 * ROWS, 14 * COLUMNS, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two narrow blocks in place of the published size."""
    monkeypatch.setitem(capi.SIZES, "vitl14", TINY)
    real = capi.CapiBackbone.__init__

    def narrow(self: Any, card: Any, model: Any) -> None:
        real(self, card, model)
        object.__setattr__(self.card, "embed_dim", 32)

    monkeypatch.setattr(capi.CapiBackbone, "__init__", narrow)


def published(path: Path, decoder: int = 12) -> dict[str, Tensor]:
    """Write a file as facebookresearch/capi saves its student: backbone and head, twelve decoder blocks."""
    generator = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {
        "mask_token": (1, 32), "registers": (1, 16, 32), "patch_embed.weight": (32, 3, 14, 14),
        "patch_embed.bias": (32,),
    }  # fmt: skip
    for place, depth in (("encoder", 2), ("decoder", decoder)):
        for number in range(depth):
            block = f"{place}.blocks.{number}"
            shapes |= {f"{block}.residual{n}.norm.weight": (32,) for n in (1, 2)}
            shapes |= {
                f"{block}.residual1.fn.{n}.weight": (32, 32) for n in ("q_proj", "k_proj", "v_proj", "proj")
            }
            shapes |= {f"{block}.residual1.fn.rope.freqs": (2, 16)}
            shapes |= {
                f"{block}.residual2.fn.fc1.weight": (128, 32),
                f"{block}.residual2.fn.fc2.weight": (32, 128),
            }
    state = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    heads = {"head.last_layer.weight_g": torch.ones(8, 1), "head.last_layer.weight_v": torch.ones(8, 32)}
    torch.save({f"backbone.{name}": value for name, value in state.items()} | heads, path)
    return state


def rms(x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    return x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * weight


def rotated(x: Tensor, places: Tensor, freqs: Tensor) -> Tensor:
    """Rotate pairs of channels, half a head apart, each as a complex number."""
    half = x.shape[-1] // 2
    angle = places @ freqs
    real, imaginary = x[..., :half], x[..., half:]
    return torch.cat(
        (
            real * angle[:, :half].cos() - imaginary * angle[:, :half].sin(),
            imaginary * angle[:, half:].cos() + real * angle[:, half:].sin(),
        ),
        dim=-1,
    )


def written_again(state: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """One image at a time, one head at a time: the vector and the last tokens."""

    def block(
        name: str, x: Tensor, at: Tensor, other: Tensor | None = None, other_at: Tensor | None = None
    ) -> Tensor:
        get = {
            key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")
        }
        query = rms(x, get["residual1.norm.weight"])
        context, context_at = (query, at) if other is None or other_at is None else (other, other_at)
        heads = []
        for head in range(2):
            rows = slice(16 * head, 16 * head + 16)
            q, k, v = (
                given @ get[f"residual1.fn.{part}_proj.weight"][rows].T
                for part, given in (("q", query), ("k", context), ("v", context))
            )
            freqs = get["residual1.fn.rope.freqs"]
            weights = (rotated(q, at, freqs) @ rotated(k, context_at, freqs).T / 4).softmax(-1)
            heads.append(weights @ v)
        x = x + torch.cat(heads, -1) @ get["residual1.fn.proj.weight"].T
        hidden = functional.gelu(rms(x, get["residual2.norm.weight"]) @ get["residual2.fn.fc1.weight"].T)
        return x + hidden @ get["residual2.fn.fc2.weight"].T

    pooled, tokens = [], []
    patches_at = torch.tensor(
        [(r / (ROWS - 1), c / (COLUMNS - 1)) for r in range(ROWS) for c in range(COLUMNS)]
    )
    quarter = [0.0, 0.25, 0.5, 0.75]
    edge = [(q, 0.0) for q in quarter] + [(1.0, q) for q in quarter]
    edge += [(1 - q, 1.0) for q in quarter] + [(0.0, 1 - q) for q in quarter]
    at = torch.cat((torch.tensor(edge), patches_at))
    for image in images:
        maps = functional.conv2d(
            image[None], state["patch_embed.weight"], state["patch_embed.bias"], stride=14
        )
        x = torch.cat((state["registers"][0], maps[0].flatten(1).T))
        for number in range(2):
            x = block(f"encoder.blocks.{number}", x, at)
        asked = state["mask_token"].expand(len(patches_at), -1)
        answers = block("decoder.blocks.0", asked, patches_at, rms(x), at)
        pooled.append(rms(answers).mean(0))
        tokens.append(rms(x))
    return torch.stack(pooled), torch.stack(tokens)


@pytest.mark.parametrize(
    "model", ["capi_vitl14_lvd", "capi_vitl14_in22k", "capi_vitl14_in1k", "capi_vitl14_p205"]
)
def test_a_published_file_gives_what_the_formulas_say(tmp_path: Path, model: str):
    state = published(tmp_path / "capi.pth")
    backbone = load(model, checkpoint=tmp_path / "capi.pth")
    features = backbone(IMAGES, [-1])
    pooled, tokens = written_again(state, (IMAGES - backbone.mean) / backbone.std)
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-4, atol=1e-4)
    last = features.blocks[0]
    assert last.cls is None
    assert last.registers is not None
    torch.testing.assert_close(last.registers, tokens[:, :16], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last.patches.flatten(1, 2), tokens[:, 16:], rtol=1e-4, atol=1e-4)


def test_a_file_without_its_decoder_is_refused(tmp_path: Path):
    published(tmp_path / "capi.pth", decoder=0)
    with pytest.raises(WeightsError, match=r"missing decoder\.blocks\.0"):
        load("capi_vitl14_in1k", checkpoint=tmp_path / "capi.pth")


def test_which_network_was_read_is_said_and_recorded(tmp_path: Path):
    published(tmp_path / "capi.pth")
    notes: list[str] = []
    card = load("capi_vitl14_in1k", checkpoint=tmp_path / "capi.pth", note=notes.append).card
    assert card.weights == {"file": "capi.pth", "network": "backbone"}
    assert notes == ["capi_vitl14_in1k: the weights are backbone of capi.pth"]
    # A training saves two networks: the teacher is read, and the student with a key.
    state = torch.load(tmp_path / "capi.pth", weights_only=True)
    torch.save({"model": {"teacher": state, "student": state}}, tmp_path / "training.pth")
    assert load("capi_vitl14_in1k", checkpoint=tmp_path / "training.pth").card.weights == {
        "file": "training.pth",
        "network": "model.teacher.backbone",
        "other_networks": "student",
    }


@pytest.mark.parametrize("name", ["decoder.blocks.0.residual1.fn.q_proj.bias", "decoder.norm.weight"])
def test_a_decoder_of_another_design_is_refused(tmp_path: Path, name: str):
    state = published(tmp_path / "capi.pth") | {name: torch.ones(32)}
    torch.save({f"backbone.{key}": value for key, value in state.items()}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=f"unexpected {name}"):
        load("capi_vitl14_in1k", checkpoint=tmp_path / "other.pth")


def test_untrained_frequencies_are_those_of_the_official_code():
    freqs = load("random:capi:vitl14").get_parameter("model.encoder.blocks.0.residual1.fn.rope.freqs")
    speeds = [7 * (7 / 7e-4) ** (-step / 3) * 2 * torch.pi for step in range(4)]
    row = torch.tensor([*speeds, *speeds, *(8 * [0.0])])
    torch.testing.assert_close(freqs, torch.stack((row, row.roll(8))))


def test_seeds_decide_random_weights_and_one_row_of_patches_is_finite():
    first, same, other = (load("random:capi:vitl14", seed=seed) for seed in (0, 0, 1))
    assert first.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert bool(first(torch.rand(1, 3, 14, 56)).pooled.isfinite().all())
    assert isinstance(first, nn.Module)


def test_unknown_sizes_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean vitl14"):
        find_card("capi:vitb14")
