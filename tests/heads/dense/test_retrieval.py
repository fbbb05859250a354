import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from ssleval.errors import ConfigError, DataError
from ssleval.heads.dense.retrieval import Bank, fill_bank, patch_labels, rare_patches, soft_votes


def test_labels_of_patches_are_means_of_one_hot_pixels() -> None:
    mask = np.random.default_rng(0).integers(0, 4, (12, 20)).astype(np.uint8)
    # The published way, for patches of 4 x 5 pixels: cut, one-hot, average.
    cut = torch.from_numpy(mask.reshape(3, 4, 4, 5).transpose(0, 2, 1, 3).reshape(3, 4, 20)).long()
    np.testing.assert_allclose(patch_labels(mask, (3, 4), 4), one_hot(cut, 4).float().mean(2), rtol=1e-6)


def test_pixels_belong_to_the_patch_that_holds_their_centre() -> None:
    # Three pixels over two patches: the middle one's centre is at 0.5, the second patch's first point.
    assert patch_labels(np.array([[0, 1, 1]]), (1, 2), 2).tolist() == [[[1, 0], [0, 1]]]
    # Fewer pixels than patches: those that hold no centre have no label.
    assert patch_labels(np.array([[1]]), (1, 3), 2).tolist() == [[[0, 0], [0, 1], [0, 0]]]


def test_ignored_pixels_are_no_part_of_a_label() -> None:
    mask = np.array([[255, 2, 255, 255], [2, 1, 255, 255]], np.uint8)
    np.testing.assert_allclose(patch_labels(mask, (1, 2), 3)[0], [[0, 1 / 3, 2 / 3], [0, 0, 0]], rtol=1e-6)


def test_rare_classes_are_drawn_more_often() -> None:
    labels = np.zeros((100, 3), np.float32)
    labels[:80, 0], labels[80:90, 1] = 1, 1
    drawn = np.concatenate([rare_patches(labels, 10, np.random.default_rng(seed)) for seed in range(100)])
    assert drawn.max() < 90, "a patch without a label was drawn"
    # 10 of 90; scores are U(0, 80) and U(0, 10): the smallest ten lie below a limit where 1 x + 1 x = 10.
    limit = 10 / (80 / 80 + 10 / 10)
    assert (drawn < 80).mean() == pytest.approx(limit * 80 / 80 / 10, abs=0.05)


def test_a_patch_of_two_classes_is_as_frequent_as_both() -> None:
    # One patch of both classes has the frequency 9 + 2, others 9: its share of first draws is known.
    labels = np.zeros((10, 2), np.float32)
    labels[:9, 0], labels[8:, 1] = 0.5, 0.5
    first = np.array([rare_patches(labels, 1, np.random.default_rng(seed))[0] for seed in range(800)])
    draws = np.random.default_rng(9).random((50_000, 10)) * np.array([9] * 8 + [11, 2])
    expected = np.bincount(draws.argmin(1), minlength=10) / len(draws)
    np.testing.assert_allclose(np.bincount(first, minlength=10) / 800, expected, atol=0.05)


def test_votes_are_the_attention_of_the_paper() -> None:
    random = np.random.default_rng(0)
    keys, queries = (torch.from_numpy(random.normal(size=(size, 5))) for size in (8, 3))
    labels = torch.from_numpy(random.dirichlet(np.ones(4), 8)).float()
    index = torch.tensor([[0, 1, 2], [7, 3, 1], [5, 5, 6]])
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], keys[index], dim=2)
    weights = (cosine / 0.1).exp()
    expected = (weights[..., None] * labels[index]).sum(1) / weights.sum(1, keepdim=True)
    found = soft_votes(cosine.float(), index, Bank(keys.numpy(), labels), 0.1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_bank_holds_equally_much_of_every_image() -> None:
    masks = [np.full((4, 4), label, np.uint8) for label in (0, 1, 255)]
    grids = np.arange(3 * 4 * 2, dtype=np.float16).reshape(3, 2, 2, 2)
    bank = fill_bank(grids, lambda row: masks[row], memory_size=8, num_classes=2, seed=0)
    assert bank.labels.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert {tuple(key) for key in bank.keys[:2].tolist()} < {tuple(key) for key in grids[0].reshape(4, 2)}


def test_what_no_bank_can_hold_is_refused() -> None:
    grids = np.zeros((2, 2, 2, 3), np.float16)
    void = np.full((4, 4), 255, np.uint8)
    with pytest.raises(ConfigError, match="one of each of 2 images"):
        fill_bank(grids, lambda _row: void, memory_size=1, num_classes=2, seed=0)
    with pytest.raises(DataError, match="not one labelled pixel"):
        fill_bank(grids, lambda _row: void, memory_size=8, num_classes=2, seed=0)
