from collections.abc import Sequence
from math import exp, fsum
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from ssleval.errors import ConfigError, ContractError
from ssleval.heads import knn
from ssleval.heads.knn import Search, knn_predict, most_similar, nearest_neighbours

SEARCHES: tuple[Search, ...] = ("faiss", "torch")


def features(count: int, channels: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, channels)).astype(np.float32)


def labels_of(count: int, classes: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, count)


def plain_loop(
    train: np.ndarray,
    labels: Sequence[int],
    queries: np.ndarray,
    *,
    k: int,
    temperature: float,
    num_classes: int,
) -> list[list[int]]:
    """Follow the definition query by query: sort by cosine, then index; add; sort by vote, then class."""

    def unit(row: np.ndarray) -> list[float]:
        return [float(value) for value in row / max(np.linalg.norm(row), np.float32(1e-12))]

    bank = [unit(row) for row in train]
    predicted: list[list[int]] = []
    for query in map(unit, queries):
        cosines = [float(np.float32(fsum(a * b for a, b in zip(row, query, strict=True)))) for row in bank]
        near = sorted(range(len(bank)), key=lambda i: (-cosines[i], i))[:k]
        votes = [0.0] * num_classes
        for c in range(num_classes):
            terms = (exp((cosines[i] - cosines[near[0]]) / temperature) for i in near if labels[i] == c)
            votes[c] = float(np.float32(fsum(terms)))
        voted = {labels[i] for i in near}
        ranked = sorted(range(num_classes), key=lambda c: (-votes[c], c))[:5]
        predicted.append([c if c in voted else -1 for c in ranked])
    return predicted


@pytest.mark.parametrize("search", SEARCHES)
def test_agrees_with_scikit_learn(search: Search) -> None:
    train, labels, queries = features(900), labels_of(900, 12), features(150, seed=1)
    got = knn_predict(
        train, labels, queries, ks=(20, 1, 7, 200), temperature=0.07, num_classes=12, search=search
    )

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / 0.07)

    for k, predicted in got.items():
        reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
        reference.set_params(weights=weights).fit(train.astype(float), labels)
        votes = np.asarray(reference.predict_proba(queries.astype(float)))
        ranked = np.argsort(-votes, axis=1, kind="stable")
        known = np.where(np.take_along_axis(votes, ranked, axis=1) > 0, ranked, -1)
        np.testing.assert_array_equal(predicted, known[:, :5])


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_agrees_with_a_plain_loop_where_everything_ties(search: Search, temperature: float) -> None:
    # Few directions, most of them many times over with different labels: ties of neighbours at every k
    # and, among equally near ones, ties of classes.
    random = np.random.default_rng(3)
    train = random.integers(-1, 2, (400, 3)).astype(np.float32) * random.integers(1, 4, (400, 1))
    train, queries = train.astype(np.float32), random.integers(-1, 2, (40, 3)).astype(np.float32)
    labels = labels_of(400, 7)
    got = knn_predict(
        train, labels, queries, ks=(2, 5, 20, 60), temperature=temperature, num_classes=7, search=search
    )
    for k, predicted in got.items():
        want = plain_loop(train, labels.tolist(), queries, k=k, temperature=temperature, num_classes=7)
        assert predicted.tolist() == want


@pytest.mark.parametrize("search", SEARCHES)
def test_a_collapsed_backbone_gives_the_first_neighbours(search: Search) -> None:
    # All images alike: neighbours are the first k of the training set, however many tie with them.
    train, queries = np.ones((5000, 24), np.float32), np.full((30, 24), 2.0, np.float32)
    labels = np.array([3] * 4 + [1] * 3 + [0] * 4993)
    got = knn_predict(
        train, labels, queries, ks=(4, 7, 10, 11), temperature=0.07, num_classes=4, search=search
    )
    first = {k: set(predicted[:, 0].tolist()) for k, predicted in got.items()}
    assert first == {4: {3}, 7: {3}, 10: {3}, 11: {0}}


@pytest.mark.parametrize("search", SEARCHES)
def test_copies_of_one_image_rank_by_index_wherever_they_lie(search: Search) -> None:
    # Rounding of a product depends on where in a block a vector lies; copies must tie all the same.
    bank = features(3001, 384)
    queries = features(40, 384, seed=1)
    where = np.random.default_rng(4).permutation(3001)[:80].reshape(40, 2)
    bank[where[:, 0]] = bank[where[:, 1]] = queries * np.float32(0.7) + features(40, 384, seed=5)
    labels = np.arange(3001)
    got = knn_predict(bank, labels, queries, ks=(1, 2), temperature=0.07, num_classes=3001, search=search)
    assert got[1][:, 0].tolist() == where.min(axis=1).tolist()
    assert got[2][:, :2].tolist() == np.sort(where, axis=1).tolist()


def test_equal_votes_go_to_the_smaller_class() -> None:
    train = np.ones((2, 3), np.float32)
    got = knn_predict(train, np.array([1, 0]), train, ks=(1, 2), temperature=0.07, num_classes=2)
    assert (got[1][0].tolist(), got[2][0].tolist()) == ([1, -1], [0, 1])


def test_classes_without_a_vote_have_no_place() -> None:
    train = np.eye(3, dtype=np.float32)
    got = knn_predict(train, np.array([5, 2, 7]), train[:1], ks=(1, 2), temperature=0.07, num_classes=9)
    assert got[1].tolist() == [[5, -1, -1, -1, -1]]
    assert got[2].tolist() == [[5, 2, -1, -1, -1]]
    got = knn_predict(train, np.array([1, 0, 2]), train[:1], ks=(1,), temperature=0.07, num_classes=3)
    assert got[1].tolist() == [[1, -1, -1]]
    got = knn_predict(train, np.array([1, 0, 2]), train[:1], ks=(1,), temperature=0.07, num_classes=3, top=2)
    assert got[1].tolist() == [[1, -1]]


def test_a_vote_too_faint_for_float32_is_still_a_vote() -> None:
    # exp(-2 / 0.001) is 0 even in float64.
    train = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    got = knn_predict(train, np.array([5, 2]), train[:1], ks=(2,), temperature=0.001, num_classes=9)
    assert got[2].tolist() == [[5, 2, -1, -1, -1]]


@pytest.mark.parametrize(
    ("nearness", "doubtful"),
    [
        ([0.9, 0.9, 0.1], True),
        ([0.9, 0.9 - 1e-6, 0.1], True),
        ([0.9, 0.89, 0.1], False),
        ([0.9, 0.5, 0.5 - 1e-6], True),
    ],
)
def test_a_class_or_a_neighbour_that_rounding_might_decide_is_doubted(
    nearness: list[float], doubtful: bool
) -> None:
    # Five of seven classes have no vote, and tie without leaving a doubt.
    vote = knn._Vote(np.array([6, 3, 0]), (2,), 0.07, 7, 5, 1e-5)
    _, got = vote(torch.tensor([nearness]), torch.tensor([[0, 1, 2]]))
    assert got.tolist() == [doubtful]


@pytest.mark.parametrize(("k", "temperature", "want"), [(1, 0.07, 0), (3, 1.0, 1), (3, 0.01, 0)])
def test_k_and_temperature_each_change_the_vote(k: int, temperature: float, want: int) -> None:
    train = np.array([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]], np.float32)
    query = np.array([[1.0, 0.05]], np.float32)
    got = knn_predict(train, np.array([0, 1, 1]), query, ks=(k,), temperature=temperature, num_classes=2)
    assert got[k][0, 0] == want


def test_a_tiny_temperature_is_the_nearest_neighbour() -> None:
    train, labels, queries = features(200), labels_of(200, 9), features(50, seed=1)
    got = knn_predict(train, labels, queries, ks=(1, 100), temperature=1e-5, num_classes=9)
    assert got[1][:, 0].tolist() == got[100][:, 0].tolist()


@pytest.mark.parametrize("search", SEARCHES)
def test_blocks_change_nothing(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels, queries = features(700), labels_of(700, 30), features(90, seed=1)
    train[100:160] = train[400]

    def predict() -> dict[int, list[list[int]]]:
        got = knn_predict(train, labels, queries, ks=(3, 50), temperature=0.07, num_classes=30, search=search)
        return {k: predicted.tolist() for k, predicted in got.items()}

    whole = predict()
    monkeypatch.setattr(knn, "_TRAIN_ROWS", 37)
    monkeypatch.setattr(knn, "_NUMBERS", 2000)
    assert predict() == whole


def test_both_searches_agree_on_crowded_features() -> None:
    # Cosines around 0.97, as real descriptors have, and rows of other lengths.
    train, queries = features(3000, 64) + 6.0, features(300, 64, seed=1) + 6.0
    train *= np.random.default_rng(0).uniform(0.1, 30, (3000, 1)).astype(np.float32)
    labels = labels_of(3000, 100)
    one, two = (
        knn_predict(
            train, labels, queries, ks=(10, 20, 100, 200), temperature=0.07, num_classes=100, search=search
        )
        for search in SEARCHES
    )
    for k, predicted in one.items():
        np.testing.assert_array_equal(predicted, two[k])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_accelerator_changes_nothing() -> None:
    train, labels, queries = features(3000, 64) + 6.0, labels_of(3000, 100), features(300, 64, seed=1) + 6.0
    one, two = (
        knn_predict(train, labels, queries, ks=(20, 200), temperature=0.07, num_classes=100, device=device)
        for device in ("cpu", "cuda")
    )
    for k, predicted in one.items():
        np.testing.assert_array_equal(predicted, two[k])


@pytest.mark.parametrize("channels", [3, 64, 384, 2048])
@pytest.mark.parametrize("search", ["faiss", "torch"])
def test_rounding_stays_within_the_bound_with_room_to_spare(search: Search, channels: int) -> None:
    # Features of one sign have the largest partial sums, hence the largest rounding errors.
    bank, vectors = (knn._unit(features(size, channels, seed=size) + 10) for size in (1500, 40))
    similarity, index = knn._SEARCHES[search](bank, vectors, 1500, "cpu")
    exact = (vectors.double() @ bank.double().T).gather(1, index)
    # Twice, for a difference has the errors of both; and twice again for libraries not tried here.
    assert 4 * (similarity - exact).abs().max() < knn._noise(channels)


def test_only_doubtful_queries_are_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[int] = []
    settle = knn._settle

    def counted(
        train: np.ndarray,
        vectors: torch.Tensor,
        candidates: tuple[torch.Tensor, torch.Tensor],
        k: int,
        doubtful: torch.Tensor,
    ) -> None:
        settled.append(int(doubtful.sum()))
        settle(train, vectors, candidates, k, doubtful)

    monkeypatch.setattr(knn, "_settle", counted)
    train, labels, queries = features(5000, 64), labels_of(5000, 50), features(500, 64, seed=1)
    knn_predict(train, labels, queries, ks=(10, 20, 100, 200), temperature=0.07, num_classes=50)
    assert 0 < sum(settled) < 100


def test_half_precision_files_are_read_in_place(tmp_path: Path) -> None:
    train, labels, queries = features(100), labels_of(100, 4), features(20, seed=1)
    np.save(tmp_path / "train.npy", train.astype(np.float16))
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    settings = {"ks": (5,), "temperature": 0.07, "num_classes": 4}
    got = knn_predict(mapped, labels, queries, **settings)  # pyright: ignore[reportArgumentType]
    want = knn_predict(train.astype(np.float16).astype(np.float32), labels, queries, **settings)  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(got[5], want[5])


@pytest.mark.parametrize(
    ("ks", "temperature", "num_classes", "error", "words"),
    [
        ((5, 11), 0.07, 3, ConfigError, r"\[5, 11\] of 10 training vectors"),
        ((0,), 0.07, 3, ConfigError, "every k"),
        ((), 0.07, 3, ConfigError, "every k"),
        ((5,), 0.0, 3, ConfigError, "must be positive"),
        ((5,), float("nan"), 3, ConfigError, "must be positive"),
        ((5,), 0.07, 2, ContractError, r"labels 0\.\.2 for 2 classes"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    ks: tuple[int, ...], temperature: float, num_classes: int, error: type[Exception], words: str
) -> None:
    labels = np.arange(10) % 3
    with pytest.raises(error, match=words):
        knn_predict(
            features(10), labels, features(2), ks=ks, temperature=temperature, num_classes=num_classes
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("side", ["train", "queries"])
def test_broken_features_are_refused(bad: float, side: str) -> None:
    given = {"train": features(10), "queries": features(4)}
    given[side][3, 2] = bad
    with pytest.raises(ContractError, match="NaN, infinite or huge"):
        knn_predict(
            given["train"], np.arange(10) % 2, given["queries"], ks=(2,), temperature=0.07, num_classes=2
        )


def test_coarse_products_are_refused() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(ConfigError, match="set_float32_matmul_precision"):
            knn_predict(
                features(10),
                np.arange(10) % 2,
                features(4),
                ks=(2,),
                temperature=0.07,
                num_classes=2,
                search="torch",
            )
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("search", SEARCHES)
def test_nearest_vectors_are_those_of_a_full_sort(search: Search) -> None:
    train, queries = features(300), features(40, seed=1)
    # A hundred copies of one vector: which of them are near is said by their index alone.
    train[100:200] = queries[0]
    cosines = (queries @ train.T).astype(np.float64)
    cosines /= np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(train, axis=1)
    similarity, index = nearest_neighbours(train, queries, k=7, search=search)
    expected = np.argsort(-cosines.round(12), axis=1, kind="stable")[:, :7]
    assert index[0].tolist() == list(range(100, 107))
    np.testing.assert_array_equal(np.sort(index.numpy(), 1), np.sort(expected, 1))
    np.testing.assert_allclose(similarity, np.take_along_axis(cosines, index.numpy(), 1), atol=1e-6)


def test_settled_neighbours_have_the_same_digits_whatever_the_search() -> None:
    train, queries = features(300), features(40, seed=1)
    train[100:200] = queries[0]
    for k in (7, 300):
        found = [nearest_neighbours(train, queries, k=k, search=search, settled=True) for search in SEARCHES]
        for similarity, index in found:
            np.testing.assert_array_equal(similarity, found[0][0])
            np.testing.assert_array_equal(index, found[0][1])
            sides = [(one / np.linalg.norm(one, axis=1, keepdims=True)) for one in (queries, train)]
            cosines = np.einsum("md,mkd->mk", sides[0].astype(float), sides[1].astype(float)[index.numpy()])
            np.testing.assert_allclose(similarity, cosines, atol=2e-7)
            falls = np.diff(similarity.numpy(), axis=1)
            assert (falls <= 0).all()
            assert (np.diff(index.numpy(), axis=1)[falls == 0] > 0).all()


def test_all_vectors_can_be_asked_for_but_no_more() -> None:
    train = features(20)
    assert nearest_neighbours(train, train[:3], k=20)[1].sort(1).values.tolist() == [list(range(20))] * 3
    for k in (0, 21):
        with pytest.raises(ConfigError, match=rf"k = {k} of 20 training vectors"):
            nearest_neighbours(train, train, k=k)


@pytest.mark.parametrize("at_once", [40, 10**6])
@pytest.mark.parametrize("count", [1, 7, 150, 500])
def test_the_most_similar_are_the_first_of_a_sorted_gallery(
    monkeypatch: pytest.MonkeyPatch, count: int, at_once: int
) -> None:
    queries, gallery = features(4, 24), np.repeat(features(50, 24, seed=1), 3, axis=0)  # all thrice: ties
    monkeypatch.setattr(knn, "_TRAIN_ROWS", at_once)
    rows, similarity = most_similar(queries, gallery, count)
    products = (queries.astype(np.float64) @ gallery.T.astype(np.float64)).astype(np.float32)
    order = np.argsort(-products, axis=1, kind="stable")[:, :count]
    assert rows.tolist() == order.tolist()
    np.testing.assert_array_equal(similarity, np.take_along_axis(products, order, axis=1))
