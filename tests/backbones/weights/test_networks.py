"""Which network of a file is read, what is said of it, and what is refused."""

from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ssleval.backbones.weights.checkpoints import fill, read_checkpoint, refuse_dead
from ssleval.backbones.weights.networks import read_network
from ssleval.backbones.zoo import load
from ssleval.errors import WeightsError


def tensors(value: float) -> dict[str, Tensor]:
    """Return the names of a small vision transformer, all with values of their own."""
    names = ("cls_token", "blocks.0.norm1.weight", "norm.bias")
    return {name: torch.full((2, 2), value + index) for index, name in enumerate(names)}


def below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


RAW, AVERAGED = tensors(1.0), tensors(10.0)
HEAD = {"0.weight": torch.ones(3)}
SOLO = {
    "state_dict": {
        **below("backbone", RAW),
        **below("momentum_backbone", AVERAGED),
        **below("projector", HEAD),
        **below("momentum_projector", HEAD),
        "classifier.weight": torch.ones(2),
        "queue": torch.ones(2),
    },
    "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(1)}}}],
}
LIGHTLY = {
    "state_dict": {
        **below("student_backbone", RAW),
        **below("student_head", HEAD),
        **below("teacher_backbone", AVERAGED),
        **below("teacher_head", HEAD),
    }
}
MOCO = {
    "state_dict": {
        **below("module.encoder_q", RAW),
        **below("module.encoder_k", AVERAGED),
        "module.queue": torch.ones(2, 2),
        "module.queue_ptr": torch.zeros(1, dtype=torch.int64),
    }
}
VISSL = {
    "classy_state_dict": {
        "base_model": {"model": {"trunk": below("_feature_blocks", RAW), "heads": HEAD}, "meta": {}},
        "optimizer": {"state": {0: {"m": torch.ones(1)}}},
    },
    "iteration": 3,
}
DINO = {
    "student": below("module.backbone", RAW),
    "teacher": {**below("backbone", AVERAGED), **below("head", HEAD)},
}


@pytest.mark.parametrize(
    ("content", "key", "expected", "path", "others"),
    [
        (RAW, "teacher", RAW, "", ""),
        ({"model": RAW}, "teacher", RAW, "model", ""),
        ({"state_dict": RAW, "state_dict_ema": AVERAGED}, "teacher", RAW, "state_dict", "state_dict_ema"),
        (
            {"state_dict": RAW, "state_dict_ema": AVERAGED},
            "state_dict_ema",
            AVERAGED,
            "state_dict_ema",
            "state_dict",
        ),
        ({"model": RAW, "model_ema": AVERAGED}, "teacher", RAW, "model", "model_ema"),
        (DINO, "teacher", AVERAGED | below("head", HEAD), "teacher.backbone", "student"),
        (DINO, "student", RAW, "student.backbone", "teacher"),
        (SOLO, "teacher", RAW, "state_dict.backbone", "momentum_backbone"),
        (SOLO, "momentum_backbone.", AVERAGED, "state_dict.momentum_backbone", "backbone"),
        (LIGHTLY, "teacher", AVERAGED, "state_dict.teacher_backbone", "student_backbone"),
        (LIGHTLY, "student", RAW, "state_dict.student_backbone", "teacher_backbone"),
        (MOCO, "teacher", RAW, "state_dict.encoder_q", "encoder_k"),
        (MOCO, "encoder_k", AVERAGED, "state_dict.encoder_k", "encoder_q"),
        (VISSL, "teacher", RAW, "classy_state_dict.base_model.model.trunk", ""),
        ({"state_dict": below("model", RAW)}, "teacher", RAW, "state_dict.model", ""),
        ({"state_dict": below("net", RAW)}, "teacher", RAW, "state_dict.net", ""),
        (below("encoder", RAW) | below("projector", HEAD), "teacher", RAW, "encoder", ""),
        ({"net": RAW, "epoch": 3}, "teacher", RAW, "net", ""),
        ({"encoder": RAW, "target_encoder": AVERAGED}, "teacher", AVERAGED, "target_encoder", "encoder"),
        (
            below("online_encoder", RAW) | below("target_encoder", AVERAGED),
            "teacher",
            RAW,
            "online_encoder",
            "target_encoder",
        ),
        ({"a": below("odd.place", RAW)}, "a.odd.place", RAW, "a.odd.place", ""),
        ({"model": RAW, "teacher": "vit_base"}, "teacher", RAW, "model", ""),
        ({"model": {"depth": 12}, "state_dict": RAW}, "teacher", RAW, "state_dict", ""),
    ],
)
def test_the_network_that_is_read_is_named(
    content: Any, key: str, expected: dict[str, Tensor], path: str, others: str, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    network = read_network(file, key)
    found = {name: tensor for name, tensor in network.content.items() if name not in below("head", HEAD)}
    assert found.keys() == expected.keys() - below("head", HEAD).keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert (network.path, ", ".join(network.others)) == (path, others)
    if path:  # What is recorded reads the same network again.
        again = read_network(file, path)
        assert all(torch.equal(again.content[name], found[name]) for name in found)


def test_an_encoder_inside_a_network_is_part_of_it(tmp_path: Path) -> None:
    state = below("encoder.layer.0", RAW) | {
        "embeddings.cls_token": torch.ones(2),
        "pooler.weight": torch.ones(2),
    }
    save_file(state, tmp_path / "w.safetensors")
    assert read_checkpoint(tmp_path / "w.safetensors").keys() == state.keys()


CYCLE: dict[str, Any] = {}
CYCLE["model"] = CYCLE
WIDE = reduce(lambda inner, _: {"model": inner, "net": inner}, range(40), dict[str, Any](RAW))
META = {name: tensor.to("meta") for name, tensor in RAW.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": below("teacher", RAW), "net": below("teacher", RAW)}, r"model\.teacher, net\.teacher"),
        (dict(enumerate(RAW.values())), r"no names but 0, 1, 2; save the model's state_dict"),
        ({**RAW, 5: torch.ones(1)}, r"no names but 5"),
        (META, r"cls_token has a shape and no values \(device meta\)"),
        ({**RAW, "norm.bias": torch.eye(3).to_sparse()}, r"norm\.bias is not dense"),
        (
            {**RAW, "norm.bias": torch.ones(2).to(torch.float8_e4m3fn)},
            r"float8_e4m3fn, whose scale is unknown",
        ),
        ({**RAW, "head.weight": torch.zeros(1).expand(10**12)}, r"tensors are larger than the file"),
        (CYCLE, r"entries are no tensors"),
        (WIDE, r"it has model, net; choose one with --key"),
        ({"model": {**RAW, "\x1b[31m\nx" * 99: 1}}, r"entries are no tensors"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(content: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    with pytest.raises(WeightsError, match=message) as caught:
        read_network(file)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("weight", torch.zeros(2, 3), "constant: 0.weight"),
        ("weight", torch.full((2, 3), 0.5), "constant: 0.weight"),
        ("weight", torch.tensor([[1.0, 2.0, torch.nan]] * 2), "not finite: 0.weight"),
        ("bias", torch.tensor([0.0, torch.inf]), "not finite: 0.bias"),
        ("bias", torch.tensor([0.0, 1e300], dtype=torch.float64), "not finite: 0.bias"),
    ],
)
def test_dead_weights_are_refused_without_advice_on_precision(name: str, value: Tensor, problem: str) -> None:
    module = nn.Sequential(nn.Linear(3, 2))
    refuse_dead("test", module)
    fill(module, {**module.state_dict(), f"0.{name}": value}, name="test")
    with pytest.raises(WeightsError, match=problem) as caught:
        refuse_dead("test", module)
    assert "precision" not in str(caught.value)


def test_a_constant_bias_and_norm_are_no_dead_weights() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    nn.init.zeros_(module[0].bias)  # pyright: ignore[reportArgumentType]
    refuse_dead("test", module)


def test_counts_of_batches_may_be_missing_as_in_files_before_torch_0_4_1() -> None:
    norm = nn.BatchNorm1d(2)
    state = {name: tensor + 1 for name, tensor in norm.state_dict().items() if "batches" not in name}
    fill(norm, state, name="test")
    assert norm.weight.tolist() == [2, 2]
    assert int(norm.num_batches_tracked or 0) == 0


def test_the_choice_is_recorded_on_the_card_and_said(tmp_path: Path) -> None:
    made: Any = load("random:timm:test_vit")
    state = dict(made.model.state_dict())
    content = {"state_dict": below("backbone", state), "state_dict_ema": below("backbone", state)}
    torch.save(content, tmp_path / "w.pth")
    notes: list[str] = []
    backbone = load("timm:test_vit", checkpoint=tmp_path / "w.pth", note=notes.append)
    recorded = {"file": "w.pth", "network": "state_dict.backbone", "other_networks": "state_dict_ema"}
    assert backbone.card.weights == recorded
    assert notes == [
        "timm:test_vit: the weights are state_dict.backbone of w.pth; it also has state_dict_ema, which "
        "--key reads by name"
    ]
    torch.save(state, tmp_path / "flat.pth")
    assert load("timm:test_vit", checkpoint=tmp_path / "flat.pth", note=notes.append).card.weights == {
        "file": "flat.pth"
    }
    assert len(notes) == 1


def test_the_numbered_residual_network_of_lightly_gets_its_names(tmp_path: Path) -> None:
    made: Any = load("random:torchvision:resnet18")
    places = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    state = made.model.state_dict()
    numbered = {
        f"backbone.{places[name.partition('.')[0]]}.{name.partition('.')[2]}": state[name] for name in state
    }
    torch.save({"state_dict": numbered | below("projection_head", HEAD)}, tmp_path / "w.pth")
    backbone = load("torchvision:resnet18", checkpoint=tmp_path / "w.pth")
    assert backbone.weights_sha256 == made.weights_sha256


def test_a_file_that_is_nan_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    state = dict(load("random:timm:test_vit").state_dict())
    state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    torch.save({**state, "norm.bias": torch.full_like(state["norm.bias"], torch.nan)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"weights are not finite: model\.norm\.bias"):
        load("timm:test_vit", checkpoint=tmp_path / "w.pth")
