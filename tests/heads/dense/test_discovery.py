"""LOST and TokenCut against dense implementations of their own, written from the papers."""

from collections import deque

import numpy as np
import pytest
from scipy.linalg import eigh

from ssleval.heads.dense import discovery
from ssleval.heads.dense.discovery import lost, second_eigenvector, tokencut


def image(index: int, rows: int = 11, columns: int = 14, width: int = 12) -> np.ndarray:
    """Tokens of an object on a background of two kinds, with noise."""
    random = np.random.default_rng(index)
    kinds = random.standard_normal((3, width))
    label = np.zeros((rows, columns), int)
    label[rows // 2 :] = 1
    top, left = random.integers(0, rows - 4), random.integers(0, columns - 5)
    label[top : top + random.integers(2, 6), left : left + random.integers(2, 7)] = 2
    return kinds[label] + random.uniform(0.2, 1.0) * random.standard_normal((rows, columns, width))


def flood(mask: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """The part of a mask that hangs together with a place, by a queue of neighbours."""
    part, queue = np.zeros_like(mask), deque([start])
    while queue:
        row, column = queue.popleft()
        inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
        if inside and mask[row, column] and not part[row, column]:
            part[row, column] = True
            queue += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    return part


def box_of(part: np.ndarray) -> tuple[int, ...]:
    rows, columns = np.where(part)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def lost_by_the_book(tokens: np.ndarray, candidates: int) -> np.ndarray:
    height, width, _ = tokens.shape
    flat = tokens.reshape(height * width, -1)
    degree = [sum(float(a @ b) > 0 for j, b in enumerate(flat) if j != i) for i, a in enumerate(flat)]
    order = sorted(range(len(flat)), key=lambda patch: (degree[patch], patch))
    voters = [one for one in order[:candidates] if flat[order[0]] @ flat[one] > 0]
    votes = np.sum([flat @ flat[one] for one in voters], axis=0)
    return flood((votes > 0).reshape(height, width), divmod(order[0], width))


def tokencut_by_the_book(tokens: np.ndarray, threshold: float, weight: float) -> np.ndarray:
    height, width, _ = tokens.shape
    flat = tokens.reshape(height * width, -1)
    flat = flat / np.sqrt((flat**2).sum(axis=1, keepdims=True))
    graph = np.where(np.einsum("id,jd->ij", flat, flat) > threshold, 1, weight)
    degree = np.diag(graph.sum(axis=1))
    vector = eigh(degree - graph, degree)[1][:, 1]
    seed = int(np.flatnonzero(np.abs(vector) > np.abs(vector).max() * (1 - 1e-6))[0])
    side = vector > vector.mean()
    side = side if side[seed] else ~side
    return flood(side.reshape(height, width), divmod(seed, width))


@pytest.mark.parametrize("index", range(50))
def test_boxes_and_masks_are_those_of_the_book(index: int) -> None:
    tokens = image(index)
    for found, expected in (
        (lost(tokens, 20), lost_by_the_book(tokens, 20)),
        (tokencut(tokens, 0.2, 1e-5), tokencut_by_the_book(tokens, 0.2, 1e-5)),
    ):
        assert (found.mask == expected).all()
        assert found.box == box_of(expected)


@pytest.mark.parametrize("limit", [100, 10_000])
def test_lanczos_finds_the_eigenvector_of_a_dense_solver(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_DENSE", limit)  # Beyond it pairs are a sparse matrix.
    flat = image(3, 20, 30).reshape(600, -1)
    joined = np.corrcoef(flat) > 0.2
    graph = np.where(joined, 1, 1e-5)
    degree = np.diag(graph.sum(axis=1))
    expected = eigh(degree - graph, degree, subset_by_index=[1, 1])[1][:, 0]
    found = second_eigenvector(joined, 1e-5)
    found *= np.sign(found @ expected) * np.linalg.norm(expected) / np.linalg.norm(found)
    assert found == pytest.approx(expected, abs=1e-7 * np.abs(expected).max())


def test_settings_matter() -> None:
    differing = [0, 0, 0]
    for index in range(8):
        tokens = image(index)
        base = tokencut(tokens, 0.2, 1e-5).mask
        differing[0] += bool((lost(tokens, 20).mask != lost(tokens, 2).mask).any())
        differing[1] += bool((base != tokencut(tokens, 0.5, 1e-5).mask).any())
        differing[2] += bool((base != tokencut(tokens, 0.2, 0.5).mask).any())
    assert all(differing)


def test_an_image_of_one_kind_is_its_object_and_a_token_of_zeros_stands_alone() -> None:
    same = np.ones((3, 4, 2)) + 0.01 * np.random.default_rng(0).random((3, 4, 2))
    assert tokencut(same, 0.2, 1e-5).box == (0, 0, 4, 3)
    assert lost(same, 100).mask.all()
    dead = same.copy()
    dead[1, 2] = 0
    assert lost(dead, 100).box == (2, 1, 3, 2)
