import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Reference

from ssleval.heads.dense.artefacts import above_medians, largest_of, norms_of, patch_pixels, read_back


def test_norms_and_outliers_by_hand() -> None:
    norms = norms_of(torch.tensor([[[[3.0, 4.0], [0, 1]], [[0, 1], [0, 2]]]]))
    assert norms.tolist() == [[[5, 1], [1, 2]]]
    assert above_medians(norms, 3.0).tolist() == [[[True, False], [False, False]]]
    assert not above_medians(norms, 4.0).any()
    assert largest_of(norms, 0.5).tolist() == [[[True, False], [False, True]]]
    assert largest_of(np.ones((2, 1, 2)), 0.5).reshape(-1).tolist() == [True, True, False, False]
    assert largest_of(norms, 1e-9).sum() == 1


def test_a_patch_has_its_own_pixels() -> None:
    images = torch.arange(5 * 7 * 3, dtype=torch.uint8).reshape(1, 5, 7, 3)
    found = patch_pixels(images, (2, 3))
    assert found.shape == (1, 2, 3, 12)
    assert found[0, 1, 2].tolist() == images[0, 2:4, 4:6].reshape(-1).tolist()


def test_what_is_read_back_is_what_regressions_of_scikit_learn_say() -> None:
    random = np.random.default_rng(0)
    tokens = random.standard_normal((6, 2, 3, 5)).astype(np.float32)
    tokens[..., 0] += np.arange(3)
    pixels = random.integers(0, 256, (6, 2, 3, 4)).astype(np.uint8)
    chosen = random.random((6, 2, 3)) < 0.3
    found = read_back(tokens, pixels, {"a": chosen, "b": ~chosen}, 0.2)
    expected = np.zeros((6, 2, 3, 3))
    for scored in range(2):
        fitted, judged = np.arange(1 - scored, 6, 2), np.arange(scored, 6, 2)
        x = tokens[fitted].reshape(-1, 5).astype(float)
        y = np.concatenate([np.tile(np.eye(6), (3, 1)), pixels[fitted].reshape(-1, 4)], axis=1)
        model = Reference(alpha=0.2 * x.var(axis=0).mean() * len(x)).fit(x, y)
        for image in judged:
            out = model.predict(tokens[image].reshape(6, 5).astype(float))
            for patch in range(6):
                place = int(out[patch, :6].argmax())
                away = np.array(divmod(place, 3)) - divmod(patch, 3)
                error = out[patch, 6:] - pixels[image].reshape(6, 4)[patch]
                numbers = place == patch, np.linalg.norm(away), (error**2).mean() ** 0.5
                expected[image, patch // 3, patch % 3] = numbers
    for group, mask in (("a", chosen), ("b", ~chosen)):
        assert found[f"count@{group}"].tolist() == mask.sum(axis=(1, 2)).tolist()
        for at, name in enumerate(("position", "distance", "pixels")):
            sums = (expected[..., at] * mask).sum(axis=(1, 2))
            assert found[f"{name}@{group}"] == pytest.approx(sums, rel=1e-6)
