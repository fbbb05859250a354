"""The native loader: cards, weights from everywhere, and what it makes of tokens."""

import subprocess
import tarfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.backbones.vit import SIZES
from ssleval.backbones.zoo import read_zoo
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, WeightsFrom, backbones
from ssleval.errors import ConfigError, UnknownNameError, WeightsError

NATIVE = backbones.get("native")
RANDOM = WeightsFrom("random")
REAL = Path(__file__).parents[3] / ".." / "shared" / "weights" / "vit_tiny_patch16_224.safetensors"


def small(arch: str = "vit_tiny/dino", **fields: Any) -> BackboneCard:
    """Describe a tiny backbone with an image of two by two patches."""
    flavour = NATIVE.card(arch)
    return replace(flavour, image_size=2 * flavour.patch_size, **fields)


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep two blocks of every size: what is tested here does not depend on depth."""
    for name, (width, _, heads) in SIZES.items():
        monkeypatch.setitem(SIZES, name, (width, 2, heads))


def pictures(height: int = 32, width: int = 32) -> Float[Tensor, "b 3 H W"]:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("arch", "patch", "positions", "registers"),
    [
        ("vit_tiny", 16, "dino", 0),
        ("vit_small/dinov2", 14, "dinov2", 0),
        ("vit_small/dinov2_reg4", 14, "size_antialias", 4),
        ("vit_tiny/mae", 16, "size", 0),
    ],
)
def test_a_flavour_decides_the_architecture(arch: str, patch: int, positions: str, registers: int) -> None:
    card = small(arch)
    assert (card.patch_size, card.position_embedding) == (patch, positions)
    backbone: Any = NATIVE.build(card, RANDOM)
    tokens = backbone(pictures(3 * patch, 2 * patch), [-1]).blocks[0]
    assert tokens.patches.shape == (2, 3, 2, card.embed_dim)
    assert (0 if tokens.registers is None else tokens.registers.shape[1]) == registers
    assert backbone.vit.config.position_embedding == positions


def test_the_giant_of_dinov2_alone_has_a_swiglu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "vit_giant2", (24, 1, 2))
    giant: Any = NATIVE.build(small("vit_giant2/dinov2"), RANDOM)
    assert hasattr(giant.vit.blocks[0].mlp, "w12")
    assert hasattr(giant.vit.blocks[0].ls1, "gamma")
    plain: Any = NATIVE.build(small("vit_giant2/dino"), RANDOM)
    assert hasattr(plain.vit.blocks[0].mlp, "fc1")


@pytest.mark.parametrize(
    ("identifier", "message"),
    [("vit_smal", "did you mean vit_small"), ("vit_small/dinov3", "did you mean dinov2")],
)
def test_unknown_names_are_refused(identifier: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        NATIVE.card(identifier)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_embedding": "rope"}, r"\.position_embedding=rope: known: dino, dinov2"),
        ({"embed_dim": 200}, "says 200 channels, vit_tiny/dino has 192"),
        ({"pooling": "map"}, "pooling is 'map'"),
        ({"image_size": 40, "patch_size": 16}, "no multiple of patch 16"),
    ],
)
def test_cards_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NATIVE.build(replace(small(), **fields), RANDOM)


def test_the_card_chooses_the_position_embedding() -> None:
    ways = ("", "dino", "size")
    built = [NATIVE.build(small("vit_tiny/mae", position_embedding=way), RANDOM) for way in ways]
    default, dino, size = (backbone(pictures(48, 80)).pooled for backbone in built)
    assert torch.equal(default, size)
    assert (dino - size).abs().max() > 1e-5


def test_pooled_is_the_normed_class_token_or_the_mean_of_the_normed_patches() -> None:
    cls, mean = (NATIVE.build(small(pooling=pooling), RANDOM) for pooling in ("cls", "mean"))
    features = cls(pictures(32, 48), [-1])
    assert torch.equal(features.pooled, features.blocks[0].cls)
    expected = features.blocks[0].patches.flatten(1, 2).mean(dim=1)
    torch.testing.assert_close(mean(pictures(32, 48)).pooled, expected)
    assert (expected - features.pooled).abs().max() > 1e-3


def test_the_norm_is_the_callers_choice_for_blocks_and_never_for_pooled() -> None:
    backbone: Any = NATIVE.build(small(), RANDOM)
    normed, raw = (backbone(pictures(), [0, -1], norm=norm) for norm in (True, False))
    assert torch.equal(normed.pooled, raw.pooled)
    for with_norm, without in zip(normed.blocks, raw.blocks, strict=True):
        torch.testing.assert_close(backbone.vit.norm(without.patches), with_norm.patches)
        assert (without.patches - with_norm.patches).abs().max() > 1e-2


def test_patches_are_row_major() -> None:
    backbone = NATIVE.build(small(), RANDOM)
    images = torch.full((1, 3, 32, 64), 0.5)
    changed = images.clone()
    changed[..., 16:, 32:48] = 0.9
    before, after = (backbone(item, [0], norm=False).blocks[0].patches for item in (images, changed))
    assert divmod(int((after - before).norm(dim=-1).argmax()), 4) == (1, 2)


def test_attention_is_of_normalised_images_and_leaves_no_graph() -> None:
    backbone: Any = NATIVE.build(small("vit_tiny/dinov2_reg4"), RANDOM)
    images = pictures(28, 42)
    maps = backbone.attention(images)
    assert maps.shape == (2, 3, 2, 3)
    assert not maps.requires_grad
    normalised = (images - backbone.mean) / backbone.std
    assert torch.equal(maps, backbone.vit.class_attention(normalised))


def test_random_weights_depend_on_their_seed_and_disturb_nothing() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (NATIVE.build(small(), WeightsFrom("random", seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert NATIVE.build(small(), WeightsFrom("random", seed=1)).weights_sha256 == one.weights_sha256


def saved(backbone: Any, path: Path, **extra: Tensor) -> Path:
    torch.save({"teacher": {f"backbone.{k}": v for k, v in backbone.vit.state_dict().items()} | extra}, path)
    return path


def test_a_checkpoint_gives_the_same_backbone(tmp_path: Path) -> None:
    made = NATIVE.build(small(), RANDOM)
    head = {"head.mlp.0.weight": torch.ones(2, 2)}
    loaded = NATIVE.build(small(), WeightsFrom("checkpoint", saved(made, tmp_path / "w.pth", **head)))
    assert loaded.weights_sha256 == made.weights_sha256
    assert torch.equal(loaded(pictures()).pooled, made(pictures()).pooled)
    assert not loaded.training
    with pytest.raises(WeightsError, match=r"no network 'student'; it has teacher"):
        NATIVE.build(small(), WeightsFrom("checkpoint", tmp_path / "w.pth", "student"))


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    other = replace(small("vit_tiny/dinov2_reg4"), patch_size=16, image_size=32)
    path = saved(NATIVE.build(other, RANDOM), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"unexpected register_tokens, blocks\.0\.ls1\.gamma"):
        NATIVE.build(small(), WeightsFrom("checkpoint", path))
    with pytest.raises(ConfigError, match="path"):
        NATIVE.build(small(), WeightsFrom("checkpoint"))


def test_published_weights_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    made = NATIVE.build(small(), RANDOM)
    saved(made, tmp_path / "w.pth")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as http:
        thread = Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        card = small(weights={"url": f"http://127.0.0.1:{http.server_port}/w.pth"})
        loaded: Backbone = NATIVE.build(card, WeightsFrom())
        http.shutdown()
        thread.join()
    assert loaded.weights_sha256 == made.weights_sha256
    assert (tmp_path / "home" / "hub" / "checkpoints" / "w.pth").exists()
    with pytest.raises(WeightsError, match="names no file"):
        NATIVE.build(small(), WeightsFrom())


@pytest.mark.skipif(not REAL.exists(), reason="the real weights are not beside this checkout")
def test_real_weights_of_timm_give_timms_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "vit_tiny", (192, 12, 3))
    card = replace(NATIVE.card("vit_tiny"), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    backbone = NATIVE.build(card, WeightsFrom("checkpoint", REAL))
    reference: Any = timm.create_model("vit_tiny_patch16_224")
    reference.load_state_dict(safetensors.torch.load_file(REAL))
    images = pictures(224, 224)
    with torch.no_grad():
        expected = reference.eval().forward_features(images * 2 - 1)
    features = backbone(images, [-1])
    torch.testing.assert_close(features.pooled, expected[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(features.blocks[0].patches.flatten(1, 2), expected[:, 1:], atol=1e-5, rtol=0)


def timm_vit(heads: int, seed: int) -> Any:
    """Build a transformer of ViT-S's width as MoCo v3 does, from timm."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        norm = partial(torch.nn.LayerNorm, eps=1e-6)
        sizes: dict[str, Any] = {
            "img_size": 32,
            "embed_dim": 384,
            "depth": 2,
            "num_heads": heads,
            "num_classes": 0,
        }
        return timm.models.vision_transformer.VisionTransformer(norm_layer=norm, **sizes).eval()


def moco_v3(path: Path, query: Any, momentum: Any) -> Path:
    """Write a training checkpoint as facebookresearch/moco-v3 does: two encoders, each with its projector."""
    state = {f"module.base_encoder.{name}": value for name, value in query.state_dict().items()}
    state |= {f"module.momentum_encoder.{name}": value for name, value in momentum.state_dict().items()}
    state |= {f"module.base_encoder.head.{n}.weight": torch.ones(2, 2) for n in (0, 3, 6)}
    state |= {
        "module.base_encoder.head.1.running_mean": torch.ones(2),
        "module.predictor.0.weight": torch.ones(2),
    }
    torch.save({"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": {"state": {}}}, path)
    return path


def test_moco_v3_has_twelve_heads_and_its_query_encoder_is_read(tmp_path: Path) -> None:
    query, momentum = timm_vit(12, 0), timm_vit(12, 1)
    path = moco_v3(tmp_path / "vit-s-300ep.pth.tar", query, momentum)
    card = replace(small("vit_small/mocov3"), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    features = NATIVE.build(card, WeightsFrom("checkpoint", path))(pictures())
    with torch.no_grad():
        expected = query.forward_features(pictures())[:, 0]
        six = timm_vit(6, 0).forward_features(pictures())[:, 0]
    torch.testing.assert_close(features.pooled, expected, atol=1e-5, rtol=1e-4)
    assert (six - expected).abs().max() > 1e-2


@pytest.mark.parametrize("arch", ["vit_small/mae", "vit_small/dino"])
def test_a_file_of_moco_v3_does_not_fill_another_architecture_of_its_shape(tmp_path: Path, arch: str) -> None:
    path = moco_v3(tmp_path / "vit-s-300ep.pth.tar", timm_vit(12, 0), timm_vit(12, 1))
    with pytest.raises(WeightsError, match="use native:vit_small/mocov3"):
        NATIVE.build(small(arch), WeightsFrom("checkpoint", path))


def published_in_parts(path: Path) -> None:
    """Cut a file into the three parts of an archive, and make it again with the command of its card."""
    archive = path.with_suffix(".tar.gz")
    with tarfile.open(archive, "w:gz") as file:
        file.add(path, path.name)
    whole, third = archive.read_bytes(), -(-archive.stat().st_size // 3)
    for number, part in enumerate(("aa", "ab", "ac")):
        name = f"{path.stem}_chunked.tar.gz.part_{part}"
        (path.parent / name).write_bytes(whole[number * third : (number + 1) * third])
    archive.unlink()
    path.unlink()
    sentence = read_zoo()["franca_vitg14"].unavailable
    command = sentence.partition("unpack them (")[2].partition(")")[0]
    assert command.startswith("cat ")
    subprocess.run(command, shell=True, check=True, cwd=path.parent)
    assert path.name in sentence


@pytest.mark.parametrize("arch", ["vit_base/franca", "vit_large/franca", "vit_giant2/franca"])
def test_franca_reads_a_teacher_in_chunks_with_its_heads(
    tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "vit_giant2", (96, 2, 24))  # narrower than 1536
    made: Any = NATIVE.build(small(arch), RANDOM)
    width = made.card.embed_dim
    # DINOv2's rule: two thirds of four times the width, rounded up to a multiple of 8.
    assert made.vit.blocks[0].mlp.w12.weight.shape == (2 * -(-int(4 * width * 2 / 3) // 8) * 8, width)
    state = made.vit.state_dict()
    chunked = {
        name.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0."): name for name in state
    }
    teacher = {f"module.backbone.{name}": state[own] for name, own in chunked.items()}
    heads = (
        "backbone.mask_token",
        "dino_head.mlp.0.weight",
        "ibot_head.mlp.0.weight",
        "rasa_head.pos_pred.weight",
    )
    teacher |= {f"module.{name}": torch.ones(2, 2) for name in heads}
    path = tmp_path / "franca_vitg14_Laion600M.pth"
    torch.save({"teacher": teacher}, path)
    if "giant" in arch:
        published_in_parts(path)
    loaded: Any = NATIVE.build(small(arch), WeightsFrom("checkpoint", path))
    assert loaded.weights_sha256 == made.weights_sha256
    assert loaded.vit.config.position_embedding == "dinov2"


@pytest.mark.parametrize("whole", [False, True], ids=["backbone", "checkpoint"])
def test_mugs_leaves_its_relation_block_and_its_heads_out(tmp_path: Path, whole: bool) -> None:
    network, extra = timm_vit(6, 0), timm_vit(6, 1)
    state = dict(network.state_dict())
    state |= {f"relation_blocks.0.{name}": value for name, value in extra.blocks[0].state_dict().items()}
    content: dict[str, Any] = state
    if whole:  # what main.py writes, of which the publisher's k-NN reads the teacher
        heads = {
            "instance_head.projector.0.weight": torch.ones(2, 2),
            "local_group_head.projector.0.weight": torch.ones(2, 2),
            "group_head.last_layer.weight_g": torch.ones(2, 1),
        }
        teacher = {f"backbone.{name}": value for name, value in state.items()} | heads
        student = {f"module.{name}": value + 1 for name, value in teacher.items()}
        memory = {"block.queue_q": torch.ones(2, 2)}
        content = {"student": student, "teacher": teacher, "teacher_mem": memory, "student_mem": memory}
        content |= {"optimizer": {"state": {}}, "epoch": 800, "args": None}
    torch.save(content, tmp_path / "vit_small_backbone_800ep.pth")
    weights = WeightsFrom("checkpoint", tmp_path / "vit_small_backbone_800ep.pth")
    card = replace(small("vit_small/dino"), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    features = NATIVE.build(card, weights)(pictures())
    with torch.no_grad():
        expected = network.forward_features(pictures())[:, 0]
    torch.testing.assert_close(features.pooled, expected, atol=1e-5, rtol=1e-4)
