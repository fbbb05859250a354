"""V-JEPA's probe against a composition of torch's own transformer layers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, layer_norm, linear

from ssleval.errors import NotApplicableError
from ssleval.heads.attentive.blocks import JepaProbes

WIDTH, CLASSES = 32, 4


def by_hand(weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Three layers of `torch.nn.TransformerEncoderLayer`, and a cross-attention head by head."""
    for block in range(3):
        layer = nn.TransformerEncoderLayer(
            WIDTH, 16, 4 * WIDTH, 0.0, gelu, batch_first=True, norm_first=True, dtype=torch.float64
        )
        names = {
            "self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "out.", "linear1.": "mlp.0.",
            "linear2.": "mlp.2.", "norm1.": "norm1.", "norm2.": "norm2.",
        }  # fmt: skip
        own = {
            theirs + kind: weights[f"blocks.{block}.{ours}{kind}"]
            for theirs, ours in names.items()
            for kind in ("weight", "bias")
        }
        tokens = torch.func.functional_call(layer, own, (tokens,))

    def of(name: str) -> tuple[Tensor, Tensor]:
        return weights[f"cross.{name}.weight"], weights[f"cross.{name}.bias"]

    query = weights["query"].expand(len(tokens), 1, WIDTH)
    q = linear(query, *of("q"))
    key, value = linear(layer_norm(tokens, (WIDTH,), *of("norm1")), *of("kv")).split(WIDTH, dim=2)
    parts: list[Tensor] = []
    for head in range(16):
        one = slice(head * WIDTH // 16, (head + 1) * WIDTH // 16)
        scores = (q[..., one] * key[..., one]).sum(2) / (WIDTH // 16) ** 0.5
        parts.append((scores.softmax(1)[..., None] * value[..., one]).sum(1, keepdim=True))
    query = query + torch.cat(parts, dim=2)
    hidden = gelu(linear(layer_norm(query, (WIDTH,), *of("norm2")), *of("mlp.0")))
    query = query + linear(hidden, *of("mlp.2"))
    return linear(query[:, 0], weights["linear.weight"], weights["linear.bias"])


def test_logits_and_gradients_are_those_of_torchs_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 5, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 3, 1])
    probes = JepaProbes(2, WIDTH, CLASSES, seed=1).double()
    for parameter in probes.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    logits = probes(tokens)
    torch.stack([cross_entropy(own, labels) for own in logits]).sum().backward()
    for own, probe in zip(logits, probes, strict=True):
        copies: dict[str, Any] = {
            name: parameter.detach().clone().requires_grad_() for name, parameter in probe.named_parameters()
        }
        expected = by_hand(copies, tokens)
        torch.testing.assert_close(own, expected, atol=1e-10, rtol=1e-10)
        cross_entropy(expected, labels).backward()
        for name, parameter in probe.named_parameters():
            torch.testing.assert_close(parameter.grad, copies[name].grad, atol=1e-6, rtol=1e-6, msg=name)


def test_published_initialisation() -> None:
    """Weights N(0, 0.02^2); last layers of block i over sqrt(2 i), of the cross-attention over sqrt(6)."""
    probe = JepaProbes(1, 128, 10, seed=0)[0]
    weights = dict(probe.named_parameters())
    deviations = {
        "query": 0.02, "linear.weight": 0.02, "blocks.1.qkv.weight": 0.02,
        "blocks.0.out.weight": 0.02 / 2**0.5,
        "blocks.1.mlp.2.weight": 0.02 / 4**0.5, "blocks.2.out.weight": 0.02 / 6**0.5,
        "cross.mlp.2.weight": 0.02 / 6**0.5, "cross.kv.weight": 0.02,
    }  # fmt: skip
    for name, deviation in deviations.items():
        assert weights[name].std().item() == pytest.approx(deviation, rel=0.2 if name == "query" else 0.03), (
            name
        )
    assert not any(weight.any() for name, weight in weights.items() if name.endswith("bias"))
    assert bool((weights["cross.norm1.weight"] == 1).all())


def test_a_probe_has_the_parameters_of_its_layers() -> None:
    """3 blocks of 12 d^2, a cross-attention of 11 d^2, norms and biases, and the classes."""
    d = 64
    count = sum(parameter.numel() for parameter in JepaProbes(1, d, 10, seed=0).parameters())
    block = 12 * d * d + 13 * d
    cross = 11 * d * d + 12 * d
    assert count == 3 * block + cross + d + 10 * d + 10


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(NotApplicableError, match="40 channels of a token are no multiple of 16"):
        JepaProbes(1, 40, 5, seed=0)
