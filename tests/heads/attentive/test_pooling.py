"""Probes with learned queries against the published modules, written out with layers of torch and loops."""

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssleval.errors import NotApplicableError
from ssleval.heads.attentive.pooling import AttentionPool, EfficientProbing

IMAGES, TOKENS, WIDTH, CLASSES, HEADS = 6, 10, 128, 5, 3


@pytest.fixture(scope="module")
def batch() -> tuple[Float[Tensor, "b n d"], Int[Tensor, " b"]]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(IMAGES, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    return tokens, torch.randint(0, CLASSES, (IMAGES,), generator=generator)


def efficient(heads: int = HEADS, queries: int = 32) -> EfficientProbing:
    return EfficientProbing(heads, WIDTH, CLASSES, queries=queries, seed=1).double()


def efficient_by_hand(probe: EfficientProbing, head: int, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Query by query, as a linear layer of values and a softmax over tokens; the weights are copies."""
    weights = [getattr(probe, name)[head] for name in ("queries", "values", "weight", "bias")]
    queries, values, weight, bias = (one.detach().clone().requires_grad_() for one in weights)
    share = WIDTH // len(queries)
    images: list[Tensor] = []
    for own in tokens:
        value = nn.functional.linear(own, values)
        parts: list[Tensor] = []
        for place, query in enumerate(queries):
            attention = torch.softmax(own @ query / WIDTH**0.5, dim=0)
            own_part = value[:, place * share : (place + 1) * share]
            parts.append(torch.stack([a * v for a, v in zip(attention, own_part, strict=True)]).sum(0))
        images.append(torch.cat(parts))
    vectors = torch.stack(images)
    spread = ((vectors - vectors.mean(0)) ** 2).mean(0)
    normal = (vectors - vectors.mean(0)) / torch.sqrt(spread + 1e-6)
    return normal @ weight.T + bias, [queries, values, weight, bias]


def capi_by_hand(probe: AttentionPool, head: int, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`torch.nn.MultiheadAttention` that projects keys and values, and neither its query nor its output."""
    names = ("query", "keys", "values", "values_bias", "weight", "bias")
    copies = [getattr(probe, name)[head].detach().clone().requires_grad_() for name in names]
    query, keys, values, values_bias, weight, bias = copies
    width = len(query)
    attention = nn.MultiheadAttention(width, width // 64, batch_first=True, dtype=torch.float64)
    same = torch.eye(width, dtype=torch.float64)
    arguments = {
        "in_proj_weight": torch.cat([same, keys, values]),
        # Any bias of the keys: a softmax does not see it.
        "in_proj_bias": torch.cat([torch.zeros(width), torch.linspace(-1, 1, width), values_bias]).double(),
        "out_proj.weight": same,
        "out_proj.bias": torch.zeros(width, dtype=torch.float64),
    }
    asked = query.expand(len(tokens), 1, -1)
    found, _ = torch.func.functional_call(attention, arguments, (asked, tokens, tokens))
    return found[:, 0] @ weight.T + bias, copies


@pytest.mark.parametrize("kind", ["ep", "capi"])
def test_logits_and_gradients_are_those_of_the_written_out_module(
    kind: str, batch: tuple[Tensor, Tensor]
) -> None:
    tokens, labels = batch
    probe = efficient() if kind == "ep" else AttentionPool(HEADS, WIDTH, CLASSES, seed=1).double()
    nn.init.normal_(probe.bias)
    if isinstance(probe, AttentionPool):
        nn.init.normal_(probe.values_bias)
        nn.init.normal_(probe.query, std=3.0)
    by_hand = efficient_by_hand if isinstance(probe, EfficientProbing) else capi_by_hand
    logits = probe(tokens)
    torch.stack([cross_entropy(own, labels) for own in logits]).sum().backward()
    for head in range(HEADS):
        expected, copies = by_hand(probe, head, tokens)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(logits[head], expected, atol=1e-10, rtol=1e-10)
        cross_entropy(expected, labels).backward()
        for parameter, copy in zip(probe.parameters(), copies, strict=True):
            assert parameter.grad is not None
            assert copy.grad is not None
            assert float(copy.grad.abs().max()) > 1e-6
            torch.testing.assert_close(parameter.grad[head], copy.grad, atol=1e-6, rtol=1e-6)


def test_efficient_probing_of_a_base_model_has_the_published_number_of_parameters() -> None:
    """As the logs of the published runs print it, for 768 channels and 1,000 classes."""
    probe = EfficientProbing(1, 768, 1000, queries=32, seed=0)
    assert sum(parameter.numel() for parameter in probe.parameters()) == 1_383_400


def test_a_probe_in_evaluation_takes_running_moments_and_not_those_of_the_batch(
    batch: tuple[Tensor, Tensor],
) -> None:
    tokens, probe = batch[0], efficient()
    probe(tokens)
    whole = probe.eval()(tokens)
    torch.testing.assert_close(probe(tokens[:1]), whole[:, :1])


def test_published_initialisations() -> None:
    """EP: queries N(0, 0.02^2), linear layers as torch's; CAPI: all weights N(0, 0.02^2), biases zero."""
    probe = EfficientProbing(2, 256, 100, queries=32, seed=0)
    assert probe.queries.std().item() == pytest.approx(0.02, rel=0.05)
    for weight in (probe.values, probe.weight):
        assert weight.abs().max().item() == pytest.approx(256**-0.5, rel=0.01)
        assert weight.std().item() == pytest.approx(256**-0.5 / 3**0.5, rel=0.05)
    pool = AttentionPool(2, 256, 100, seed=0)
    for weight in (pool.query, pool.keys, pool.values, pool.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not pool.bias.any()
    assert not torch.equal(pool.keys[0], pool.keys[1])


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(NotApplicableError, match="128 channels of a token are no multiple of 48 queries"):
        efficient(queries=48)
    with pytest.raises(NotApplicableError, match="96 channels of a token are no multiple of 64"):
        AttentionPool(1, 96, 5, seed=0)
