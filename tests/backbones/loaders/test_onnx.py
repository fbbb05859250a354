"""Graphs are written by hand: onnx is no dependency, and onnxruntime an extra."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssleval.backbones.zoo import load
from ssleval.errors import ConfigError, UnknownNameError, WeightsError

CARD = {"mean": 0.5, "std": 0.25, "patch_size": 8}


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, array: np.ndarray) -> bytes:
    kind = {"float32": 1, "int64": 7}[str(array.dtype)]
    dims = b"".join(field(1, size) for size in array.shape)
    return field(5, dims + field(2, kind) + field(8, name) + field(9, array.tobytes()))


def node(operator: str, inputs: str, output: str, **attributes: list[int]) -> bytes:
    named = b"".join(
        field(5, field(1, name) + b"".join(field(8, value) for value in values) + field(20, 7))
        for name, values in attributes.items()
    )
    names = b"".join(field(1, name) for name in inputs.split())
    return field(1, names + field(2, output) + field(4, operator) + named)


def value(number: int, name: str, shape: list[int | str], kind: int = 1) -> bytes:
    dims = b"".join(field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in shape)
    return field(number, field(1, name) + field(2, field(1, field(1, kind) + field(2, dims))))


WEIGHT = np.random.default_rng(0).normal(size=(12, 3, 8, 8)).astype(np.float32)


def graph(shape: list[int | str] | None = None, outputs: tuple[str, ...] = ("tokens",)) -> bytes:
    """Patches of 8 pixels: a map [b 12 h w], the same as tokens [b hw 12], and their mean [b 12]."""
    body = (
        node("Conv", "images w", "map", strides=[8, 8])
        + node("Reshape", "map flat", "patches")
        + node("Transpose", "patches", "tokens", perm=[0, 2, 1])
        + node("GlobalAveragePool", "map", "mean4")
        + node("Reshape", "mean4 row", "vector")
        + tensor("w", WEIGHT)
        + tensor("flat", np.array([0, 12, -1]))
        + tensor("row", np.array([0, 12]))
        + value(11, "images", shape or ["b", 3, "h", "w_"])
        + b"".join(value(12, name, []) for name in outputs)
    )
    return field(1, 8) + field(8, field(1, "") + field(2, 17)) + field(7, body + field(2, "g"))


@pytest.fixture
def runtime() -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def stored(folder: Path, content: bytes, name: str = "net.onnx") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def expected(images: torch.Tensor) -> torch.Tensor:
    """The map of `graph`, by torch."""
    return torch.nn.functional.conv2d((images - 0.5) / 0.25, torch.from_numpy(WEIGHT), stride=8)


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    ("outputs", "stated"),
    [
        (("tokens",), ""), (("map",), ""), (("vector",), "?pooling=given"),
        (("tokens", "vector"), "?output=vector&pooling=given"),
    ],
)  # fmt: skip
def test_features_are_those_of_the_same_layers_in_torch(
    outputs: tuple[str, ...], stated: str, size: int, tmp_path: Path
) -> None:
    path = stored(tmp_path, graph(outputs=outputs))
    backbone = load(f"onnx:{path}{stated}", card={**CARD, "image_size": 32})
    images = torch.rand(3, 3, size, size)
    patches = expected(images).permute(0, 2, 3, 1)
    vector = "given" in stated
    features = backbone(images, () if vector else (-1,))
    torch.testing.assert_close(features.pooled, patches.mean((1, 2)), rtol=1e-5, atol=1e-4)
    for tokens in features.blocks:
        torch.testing.assert_close(tokens.patches, patches, rtol=1e-5, atol=1e-4)
        assert tokens.cls is None
    assert (backbone.card.embed_dim, backbone.card.patch_size, backbone.card.image_size) == (12, 8, 32)


@pytest.mark.usefixtures("runtime")
def test_a_graph_of_one_size_states_it_and_takes_no_other(tmp_path: Path) -> None:
    path = stored(tmp_path, graph(["b", 3, 32, 32]))
    backbone = load(f"onnx:{path}", card=CARD)
    assert backbone.card.image_size == 32
    with pytest.raises(ConfigError, match="48x48 pixels, but the graph is of 32x32"):
        backbone(torch.rand(1, 3, 48, 48))


@pytest.mark.usefixtures("runtime")
def test_the_content_of_the_file_is_the_weights(tmp_path: Path) -> None:
    card = {**CARD, "image_size": 32}
    one, same, other = (
        load(f"onnx:{stored(tmp_path, content, name)}", card=card)
        for name, content in (("a", graph()), ("b", graph()), ("c", graph(outputs=("map",))))
    )
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert one.definition == same.definition


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    ("content", "stated", "card", "message"),
    [
        (graph(), "", {**CARD, "image_size": 24, "patch_size": 12}, r"9 tokens for 2x2 .*\?cls=true"),
        (graph(outputs=("vector",)), "", {**CARD, "image_size": 32}, r"may be logits.*\?pooling=given"),
        (graph(), "", CARD, "state --patch-size 14 --image-size 224"),
        (graph(), "", {"patch_size": 8, "image_size": 32}, "state --image-mean"),
        (graph(outputs=("map", "tokens")), "", CARD, r"outputs are map, tokens; .* onnx:FILE\?output=map"),
        (graph(["b", 32, 32, 3]), "", CARD, r"expected one, of floats \[batch, 3, height, width\]"),
        (graph([1, 3, 32, 32]), "", CARD, "with a dynamic batch"),
    ],
    ids=range(7),
)  # fmt: skip
def test_what_the_graph_does_not_say_must_be_stated(
    content: bytes, stated: str, card: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(f"onnx:{stored(tmp_path, content)}{stated}", card=card)


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("location", ["w.bin", "../w.bin", "/etc/passwd"])
def test_weights_beside_the_file_are_refused(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path.parent):
        (folder / "w.bin").write_bytes(WEIGHT.tobytes())
    entry = field(13, field(1, "location") + field(2, location))
    dims = b"".join(field(1, size) for size in WEIGHT.shape)
    outside = field(5, dims + field(2, 1) + field(8, "w") + entry + field(14, 1))
    body = node("Conv", "images w", "map", strides=[8, 8]) + outside
    body += value(11, "images", ["b", 3, "h", "w_"]) + value(12, "map", []) + field(2, "g")
    content = field(1, 8) + field(8, field(1, "") + field(2, 17)) + field(7, body)
    with pytest.raises(WeightsError, match="export it as one file"):
        load(f"onnx:{stored(tmp_path, content)}", card={**CARD, "image_size": 32})


@pytest.mark.usefixtures("runtime")
def test_rubbish_other_weights_and_other_precision_are_refused(tmp_path: Path) -> None:
    card = {**CARD, "image_size": 32}
    with pytest.raises(WeightsError, match="no graph that onnxruntime runs"):
        load(f"onnx:{stored(tmp_path, b'PK' * 50)}", card=card)
    name = f"onnx:{stored(tmp_path, graph())}"
    with pytest.raises(ConfigError, match="leave out random:"):
        load(f"random:{name}", card=card)
    backbone = load(name, card=card)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ConfigError, match="leave it at --precision fp32"),
    ):
        backbone(torch.rand(1, 3, 32, 32))
    with pytest.raises(UnknownNameError, match="no file"):
        load(f"onnx:{tmp_path}/absent.onnx", card=card)


def test_without_the_library_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs onnxruntime; pip install 'ssleval\[onnx\]'"):
        load(f"onnx:{stored(tmp_path, graph())}", card={**CARD, "image_size": 32})
