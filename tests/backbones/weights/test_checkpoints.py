"""Reading weights: every layout a file may have, and every way it may be wrong."""

import argparse
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from ssleval.backbones.vit import Vit, VitConfig
from ssleval.backbones.weights.checkpoints import DROPPABLE, HEADS, fill, read_checkpoint, strip, to_native
from ssleval.errors import WeightsError

CONFIG = VitConfig(24, 2, 2, patch_size=8, image_size=16)


def weights(seed: int = 0, config: VitConfig = CONFIG) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(Vit(config).state_dict())


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


TEACHER, STUDENT = weights(1), weights(2)
HEAD = {"mlp.0.weight": torch.ones(3, 24), "last_layer.weight_g": torch.ones(3, 1)}
DINO_FULL: dict[str, Any] = {
    "student": prefixed({**prefixed(STUDENT, "backbone."), **prefixed(HEAD, "head.")}, "module."),
    "teacher": {**prefixed(TEACHER, "backbone."), **prefixed(HEAD, "head.")},
    "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    "epoch": 100,
    "args": argparse.Namespace(arch="vit_small", patch_size=16),
    "dino_loss": OrderedDict(center=torch.zeros(1, 3)),
    "fp16_scaler": None,
}
LAYOUTS: dict[str, Any] = {
    "flat": TEACHER,
    "flat, compiled and distributed": prefixed(TEACHER, "module._orig_mod."),
    "full DINO": DINO_FULL,
    "DINOv2 teacher": {"teacher": {**prefixed(TEACHER, "backbone."), **prefixed(HEAD, "dino_head.")}},
    "DINOv2 whole module": {
        "model": {
            **prefixed(TEACHER, "teacher.backbone."),
            **prefixed(HEAD, "teacher.ibot_head."),
            **prefixed(STUDENT, "student.backbone."),
            "dino_loss.center": torch.zeros(1, 3),
        },
        "iteration": 3,
    },
    "iBOT": {"state_dict": {**TEACHER, "masked_embed": torch.zeros(1, 24)}},
    "MAE": {
        "model": {
            **TEACHER,
            "mask_token": torch.zeros(1, 1, 8),
            "decoder_pos_embed": torch.zeros(1, 5, 8),
            **prefixed({"weight": torch.ones(2)}, "decoder_blocks.0.norm1."),
        },
        "args": argparse.Namespace(),
    },
    "supervised": {"model": {**TEACHER, "head.weight": torch.ones(5, 24), "head.bias": torch.ones(5)}},
    "teacher in a wrapper": {"teacher": {"state_dict": TEACHER}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_fills_the_architecture(layout: str, tmp_path: Path) -> None:
    vit = Vit(CONFIG)
    state = read_checkpoint(saved(LAYOUTS[layout], tmp_path / "weights.pth"))
    dropped = fill(vit, to_native(state), name="test")
    assert_same(dict(vit.state_dict()), TEACHER)
    assert set(dropped) == state.keys() - TEACHER.keys()


@pytest.mark.parametrize("layout", ["full DINO", "DINOv2 whole module"])
def test_the_key_chooses_the_network(layout: str, tmp_path: Path) -> None:
    state = read_checkpoint(saved(LAYOUTS[layout], tmp_path / "weights.pth"), "student")
    vit = Vit(CONFIG)
    fill(vit, to_native(state), name="test")
    assert_same(dict(vit.state_dict()), STUDENT)


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors.torch.save_file(prefixed(TEACHER, "module."), tmp_path / "w.safetensors")
    assert_same(read_checkpoint(tmp_path / "w.safetensors"), TEACHER)


def test_chunked_blocks_get_their_own_index() -> None:
    chunked = {name.replace("blocks.", "blocks.1."): tensor for name, tensor in TEACHER.items()}
    assert_same(to_native(chunked), TEACHER)


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        (DINO_FULL, "ema", r"no network 'ema'; it has student, teacher, optimizer"),
        ({"student": TEACHER}, "teacher", r"no network 'teacher'; it has student; .*--key"),
        (LAYOUTS["DINOv2 whole module"], "ema", r"no network 'ema'; it has teacher, student"),
        (TEACHER, "student", r"no network 'student'; it has cls_token"),
        ({"model": TEACHER}, "student", r"no network 'student'"),
        ({"model": TEACHER, "state_dict": STUDENT}, "teacher", r"it has model, state_dict; .*--key"),
        ({"mine": TEACHER, "epoch": 3}, "teacher", r"2 of 2 entries.*mine \(dict\), epoch \(int\)"),
        ({"teacher": {}}, "teacher", r"it has nothing"),
        ([TEACHER], "teacher", r"it holds list, expected named tensors"),
        ({}, "teacher", r"it holds dict, expected named tensors"),
        ({**TEACHER, "backbone.cls_token": torch.ones(1)}, "teacher", r"two tensors are called 'cls_token'"),
    ],
)
def test_a_file_without_that_network_says_what_it_has(
    content: Any, key: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        read_checkpoint(saved(content, tmp_path / "weights.pth"), key)
    assert "\n" not in str(caught.value)


def test_another_wrapped_network_is_reached_by_its_key(tmp_path: Path) -> None:
    path = saved({"model": STUDENT, "model_ema": TEACHER}, tmp_path / "weights.pth")
    assert_same(read_checkpoint(path, "model_ema"), TEACHER)
    assert_same(read_checkpoint(path), STUDENT)


class Malicious:
    """Its unpickling would run code."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved({"teacher": TEACHER, "args": Malicious()}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="would mean running its code") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not Path("touched").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_line(name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    (torch.save if name.endswith("pth") else safetensors.torch.save_file)(TEACHER, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=r"weights\..*bytes\): it is damaged") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.pth", r"weights\.pth .*its content is safetensors; rename it to weights\.safetensors"),
        ("weights.safetensors", r"torch\.save wrote it, it is no safetensors; rename it to weights\.pth"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_under_the_name_of_another_format_says_which_it_is(
    name: str, message: str, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / name
    if name.endswith("pth"):
        safetensors.torch.save_file(TEACHER, path)
    else:
        torch.save(TEACHER, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>not found</html>", b"\x80\x02}", pickle.dumps([1], protocol=2)]
)
def test_other_files_are_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_absent_files_and_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="it is a folder"):
        read_checkpoint(tmp_path)


def test_missing_and_unexpected_tensors_are_named_and_nothing_is_copied() -> None:
    vit = Vit(CONFIG)
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    state = {name: tensor for name, tensor in TEACHER.items() if not name.startswith("blocks.1.")}
    state["blocks.0.gamma_1"] = torch.ones(24)
    with pytest.raises(WeightsError) as caught:
        fill(vit, state, name="dino_test")
    message = str(caught.value)
    assert message.startswith("dino_test: ")
    assert "missing blocks.1.norm1.weight, blocks.1.norm1.bias, " in message
    assert "and 7 more" in message
    assert "unexpected blocks.0.gamma_1;" in message
    assert_same(dict(vit.state_dict()), before)


def test_other_shapes_and_kinds_are_named() -> None:
    with pytest.raises(WeightsError, match=r"misfit pos_embed \[1, 10, 24\] for \[1, 5, 24\]"):
        fill(Vit(CONFIG), {**TEACHER, "pos_embed": torch.zeros(1, 10, 24)}, name="test")
    with pytest.raises(WeightsError, match=r"misfit norm.bias torch.int8 for torch.float32"):
        fill(Vit(CONFIG), {**TEACHER, "norm.bias": torch.zeros(24, dtype=torch.int8)}, name="test")


def test_heads_are_dropped_by_name_only_where_the_architecture_has_none() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "trunk": nn.Linear(2, 2)})
    state = {name: torch.full_like(tensor, 3.0) for name, tensor in model.state_dict().items()}
    assert fill(model, {**state, "fc.weight": torch.ones(1)}, name="test") == ("fc.weight",)
    assert all((tensor == 3).all() for tensor in model.state_dict().values())
    for extra in ("headless.weight", "header", "mask_tokens", "a.head.weight"):
        with pytest.raises(WeightsError, match=f"unexpected {extra}"):
            fill(model, {**state, extra: torch.ones(1)}, name="test")
    with pytest.raises(WeightsError, match=r"unexpected fc\.weight"):
        fill(model, {**state, "fc.weight": torch.ones(1)}, name="test", droppable=())


@pytest.mark.parametrize("name", DROPPABLE)
def test_no_head_hides_a_tensor_of_the_vit(name: str) -> None:
    config = VitConfig(24, 1, 2, 8, 16, ffn="swiglu", layerscale=1.0, num_registers=4)
    assert not any(key.startswith(name) for key in weights(config=config))
    assert any(name in names for names in HEADS.values())


def test_a_module_without_memory_gets_the_tensors_in_its_own_type() -> None:
    with torch.device("meta"):
        vit = Vit(CONFIG)
    fill(vit, {name: tensor.half() for name, tensor in TEACHER.items()}, name="test")
    assert_same(dict(vit.state_dict()), {name: tensor.half().float() for name, tensor in TEACHER.items()})
    assert all(parameter.requires_grad for parameter in vit.parameters())


def test_prefixes_are_stripped_from_the_front_only() -> None:
    state = {"module.backbone.a.module.b": torch.ones(1), "c": torch.zeros(1)}
    assert strip(state, "test").keys() == {"a.module.b", "c"}


def test_published_names_of_hugging_face_are_converted() -> None:
    expected = weights(config=VitConfig(24, 1, 2, 8, 16, ffn="swiglu", layerscale=1.0, num_registers=4))
    names = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "pos_embed": "embeddings.position_embeddings",
        "cls_token": "embeddings.cls_token",
        "register_tokens": "embeddings.register_tokens",
        "blocks.0.attn.proj": "encoder.layer.0.attention.output.dense",
        "blocks.0.ls1.gamma": "encoder.layer.0.layer_scale1.lambda1",
        "blocks.0.ls2.gamma": "encoder.layer.0.layer_scale2.lambda1",
        "blocks.0.mlp.w12": "encoder.layer.0.mlp.weights_in",
        "blocks.0.mlp.w3": "encoder.layer.0.mlp.weights_out",
        "blocks.0": "encoder.layer.0",
        "norm": "layernorm",
    }
    published: dict[str, Tensor] = {"dinov2_with_registers.embeddings.mask_token": torch.zeros(1, 24)}
    for name, tensor in expected.items():
        start = next(start for start in names if name.startswith(start))
        published["dinov2_with_registers." + names[start] + name.removeprefix(start)] = tensor
    for part in ("weight", "bias"):
        fused = published.pop(f"dinov2_with_registers.encoder.layer.0.attn.qkv.{part}")
        for which, rows in zip(("query", "key", "value"), fused.chunk(3), strict=True):
            published[f"dinov2_with_registers.encoder.layer.0.attention.attention.{which}.{part}"] = rows
    native = to_native(published)
    assert native.pop("mask_token").shape == (1, 24)
    assert_same(native, expected)


def test_published_names_of_hugging_faces_plain_vit_are_converted() -> None:
    expected = weights(config=VitConfig(24, 1, 2, 8, 16))
    renamed = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    published = {
        "vit.embeddings.cls_token": expected["cls_token"],
        "vit.embeddings.position_embeddings": expected["pos_embed"],
        "vit.embeddings.patch_embeddings.projection.weight": expected["patch_embed.proj.weight"],
        "vit.embeddings.patch_embeddings.projection.bias": expected["patch_embed.proj.bias"],
        "vit.pooler.dense.weight": torch.ones(24, 24),
    }
    for part in ("weight", "bias"):
        published[f"vit.layernorm.{part}"] = expected[f"norm.{part}"]
        for ours, theirs in renamed.items():
            published[f"vit.encoder.layer.0.{theirs}.{part}"] = expected[f"blocks.0.{ours}.{part}"]
        rows = expected[f"blocks.0.attn.qkv.{part}"].chunk(3)
        for which, tensor in zip(("query", "key", "value"), rows, strict=True):
            published[f"vit.encoder.layer.0.attention.attention.{which}.{part}"] = tensor
    native = to_native(published)
    native.pop("pooler.dense.weight")
    assert_same(native, expected)


def test_a_position_that_timm_folded_into_the_class_token_becomes_zero() -> None:
    state = {**TEACHER, "pos_embed": TEACHER["pos_embed"][:, 1:]}
    native = to_native(state)
    assert not native["pos_embed"][:, 0].any()
    assert torch.equal(native["pos_embed"][:, 1:], TEACHER["pos_embed"][:, 1:])
    assert state["pos_embed"].shape[1] == 4
