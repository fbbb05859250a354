from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Similarity
from ssleval.errors import ContractError
from ssleval.heads import zeroshot
from ssleval.heads.zeroshot import class_embeddings, image_text_logits, ranked_with_loss, text_embeddings

RANDOM = np.random.default_rng(0)


class Tower(Backbone):
    """Texts are numbers of rows of a table."""

    def __init__(self, rows: np.ndarray, pooled: int = 3) -> None:
        super().__init__(BackboneCard("m", "test", "m", 6, 4, pooled_dim=pooled), num_blocks=1)
        self.rows = torch.from_numpy(rows)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        raise AssertionError("the model was run")

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return self.rows[[int(text) for text in texts]]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_a_class_is_the_mean_of_its_units() -> None:
    rows, random = RANDOM.normal(size=(80, 3)) * RANDOM.uniform(0.1, 9, (80, 1)), np.random.default_rng(1)
    prompts = [random.integers(0, 80, count) for count in random.integers(1, 5, 23)]
    found = class_embeddings(Tower(rows), [[str(row) for row in texts] for texts in prompts])
    expected = [unit(unit(rows[texts]).mean(axis=0)) for texts in prompts]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_texts_have_the_width_of_the_images() -> None:
    assert text_embeddings(Tower(np.eye(3)), ["0", "2"]).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert text_embeddings(Tower(np.eye(6), 0), ["1"]).tolist() == [[0, 1, 0, 0, 0, 0]]
    with pytest.raises(ContractError, match=r"expected \(1, 3\)"):
        text_embeddings(Tower(np.eye(6)), ["1"])
    with pytest.raises(ContractError, match="not finite"):
        text_embeddings(Tower(np.array([[1.0, 0.0, 0.0], [1.0, np.nan, 0.0]])), ["0", "1"])


@pytest.mark.parametrize("at_once", [2, 7, 4096])
def test_logits_are_scaled_cosines_and_a_bias(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(zeroshot, "_IMAGES_AT_ONCE", at_once)
    images, texts = RANDOM.normal(size=(7, 3)), unit(RANDOM.normal(size=(4, 3)))
    blocks = list(image_text_logits(images, torch.from_numpy(texts).float(), Similarity(5.0, -2.0)))
    assert len(blocks) == -(-7 // at_once)
    np.testing.assert_allclose(torch.cat(blocks), 5 * unit(images) @ texts.T - 2, rtol=1e-4, atol=1e-5)


def test_the_five_best_classes_and_the_loss() -> None:
    logits = RANDOM.integers(0, 3, (9, 70)).astype(np.float32)  # small whole numbers: many tie
    labels = RANDOM.integers(0, 70, 9)
    ranked, losses, sure = ranked_with_loss(iter(torch.from_numpy(logits).split(4)), labels)
    expected = [sorted(range(70), key=lambda place: (-row[place], place))[:5] for row in logits]
    assert ranked.tolist() == expected
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(losses, -np.log(shares[np.arange(9), labels]), rtol=1e-5)
    np.testing.assert_allclose(sure, shares.max(axis=1), rtol=1e-5)
