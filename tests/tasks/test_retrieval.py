from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ssleval.core import Dataset, DatasetCard, Geometry, Readout, Samples, Split
from ssleval.core.targets import Groups, SameGroup
from ssleval.errors import ConfigError, ContractError, DataError, NotApplicableError
from ssleval.tasks.retrieval import Retrieval
from tests.tasks.feature_tables import Tables, evaluated

GROUPS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, -1, -1, 3])


def unopened(index: int) -> Any:
    raise AssertionError(index)


def scales_differ(spread: float = 1.0) -> Tables:
    """Vectors around a centre of each group."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((5, 8))

    def features(readout: Readout, split: str) -> np.ndarray:
        own = np.random.default_rng([len(split), len(readout.kind)])
        return (centres[GROUPS] + spread * own.standard_normal((len(GROUPS), 8))).astype(np.float32)

    return Tables({"images": GROUPS, "queries": GROUPS, "gallery": GROUPS}, features)


def grouped(answers: Any = None, **card: Any) -> Dataset:
    described: dict[str, Any] = {
        "target": "groups",
        "lengths": {"images": len(GROUPS)},
        "train_split": "images",
        "test_split": "images",
    }
    count = card.get("lengths", {}).get("images", 12)
    split = Split([str(i) for i in range(count)], unopened, None, "f", answers or SameGroup(GROUPS))
    return Dataset(DatasetCard("g", **{**described, **card}), lambda _: split)


def measured(dataset: Dataset, spread: float = 1.0, **settings: Any) -> Samples:
    task = Retrieval(**settings).resolved(dataset)
    samples = evaluated(task, scales_differ(spread), dataset)
    for metric in task.metrics:
        assert 0 <= metric.score(samples) <= 1
    return samples


def test_every_image_asks_for_the_others_of_its_group() -> None:
    samples = measured(grouped())
    vectors = scales_differ().features(Readout("pooled"), "images")
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    expected: list[float] = []
    for row in range(9):
        others = np.delete(np.arange(12), row)
        expected.append(average_precision_score(GROUPS[others] == GROUPS[row], similarity[row, others]))
    assert samples["ap"] == pytest.approx(expected, abs=1e-9)
    assert list(samples.ids) == [f"images/{row}" for row in range(9)]  # alone or a distractor: no query
    scores = {metric.name: metric.score(samples) for metric in Retrieval(levels=()).metrics}
    assert scores["map"] == pytest.approx(np.mean(expected))
    by_group = [np.mean([ap for ap, g in zip(expected, GROUPS, strict=False) if g == k]) for k in range(3)]
    assert scores["map_macro"] == pytest.approx(np.mean(by_group))
    assert scores["map"] != scores["map_macro"]


def test_separable_groups_are_found_and_recall_counts_the_first_places() -> None:
    assert measured(grouped(), spread=0.01)["ap"].min() == 1
    samples = measured(grouped(), ks=(1, 2, 11))
    recalls = [samples[f"recall@{k}"].mean() for k in (1, 2, 11)]
    assert recalls[0] < recalls[1] < recalls[2] == 1


@dataclass
class Graded:
    def __call__(self, index: int) -> Groups:
        if index == 3:
            return Groups(*[np.zeros(0, np.int64)] * 3, group=0)
        easy, hard, junk = np.split(np.random.default_rng(index).permutation(12)[:7], [2, 5])
        return Groups(easy, hard if index else hard[:0], junk)


def by_hand(order: list[int], right: set[int], junk: set[int]) -> float:
    """Trapezoids over the ranking with the junk struck out."""
    left = [row for row in order if row not in junk]
    area, hits = 0.0, 0
    for rank, row in enumerate(left):
        if row in right:
            area += ((hits / rank if rank else 1.0) + (hits + 1) / (rank + 1)) / 2 / len(right)
            hits += 1
    return area


def test_levels_are_those_of_the_revisited_benchmark() -> None:
    samples = measured(graded(Graded()))
    tables = scales_differ()
    first, second = (tables.features(Readout("pooled"), split) for split in ("queries", "gallery"))
    assert len(samples) == 11
    for place, row in enumerate(row for row in range(12) if row != 3):
        cosines = second @ first[row] / np.linalg.norm(second, axis=1)
        order = np.argsort(-cosines).tolist()
        easy, hard, junk = (set(part.tolist()) for part in Graded()(row)[:3])
        assert samples["ap_easy"][place] == pytest.approx(by_hand(order, easy, junk | hard))
        assert samples["ap_medium"][place] == pytest.approx(by_hand(order, easy | hard, junk))
        if hard:
            assert samples["ap_hard"][place] == pytest.approx(by_hand(order, hard, junk | easy))
        else:
            assert np.isnan(samples["ap_hard"][place])  # no hard answer: not counted there
    assert [metric.name for metric in Retrieval(ks=(10,)).metrics] == [
        *("map_medium", "map_hard", "map_easy", "mp_medium@10", "mp_hard@10", "mp_easy@10")
    ]


def graded(answers: Any) -> Dataset:
    lengths = {"queries": 12, "gallery": 12}
    return grouped(answers, lengths=lengths, train_split="gallery", test_split="queries", graded=True)


def only_hard(index: int) -> Groups:
    return Graded()(index)._replace(easy=np.zeros(0, np.int64))


def test_levels_that_no_query_has_an_answer_at_are_left_out() -> None:
    assert Retrieval().resolved(graded(Graded())).levels == ("medium", "hard", "easy")
    assert Retrieval(levels=("easy",)).resolved(graded(Graded())).levels == ("easy",)
    task = Retrieval(ks=(1,)).resolved(graded(only_hard))
    assert [one.name for one in task.metrics] == ["map_medium", "map_hard", "mp_medium@1", "mp_hard@1"]
    samples = measured(graded(only_hard))  # scores no NaN
    assert samples["ap_hard"].tolist() == samples["ap_medium"].tolist()
    for task, answers in ((Retrieval(levels=("easy",)), only_hard), (Retrieval(levels=()), Graded())):
        with pytest.raises(ConfigError, match="no query of g has an answer at levels="):
            task.resolved(graded(answers))


def test_levels_of_answers_that_are_not_graded_are_refused() -> None:
    task = Retrieval().resolved(grouped())
    assert task.levels == ()
    assert task.resolved(grouped()) == task, "a recorded protocol can be run again"
    with pytest.raises(ConfigError, match="levels=hard has no effect on g, whose answers are not graded"):
        Retrieval(levels=("hard",)).resolved(grouped())


@pytest.mark.parametrize("setting", [{"readout": "mean"}, {"ks": (3,)}], ids=str)
def test_settings_change_the_answer(setting: dict[str, Any]) -> None:
    first, second = measured(grouped()), measured(grouped(), **setting)
    assert {k: v.tolist() for k, v in first.columns.items()} != {
        k: v.tolist() for k, v in second.columns.items()
    }


def test_geometry_follows_its_fields() -> None:
    requests = Retrieval(size=512, scales=(1.0, 0.5), interpolation="bicubic").requests(grouped())
    assert [one.geometry for one in requests] == [
        Geometry(side, "long", None, "bicubic", multiple="patch") for side in (512, 256)
    ]


def test_scales_are_summed_as_vectors_of_length_one() -> None:
    class Scaled(Tables):
        def load(self, request: Any) -> Any:
            table = super().load(request)
            if request.geometry.resize == 224:
                return table
            turned = {key: 100 * array[:, ::-1] for key, array in table.arrays.items()}
            return type(table)(table.ids, table.targets, turned, table.rows)

    tables = scales_differ()
    both = Scaled(tables.targets, tables.features)
    pooled = tables.features(Readout("pooled"), "images")
    pooled = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def together(readout: Readout, split: str) -> np.ndarray:
        return pooled + pooled[:, ::-1]

    summed = Tables(tables.targets, together)
    expected = evaluated(Retrieval(), summed, grouped())["ap"]
    two = evaluated(Retrieval(scales=(1.0, 0.5)), both, grouped())["ap"]
    assert two == pytest.approx(expected)
    assert two != pytest.approx(measured(grouped())["ap"])


def test_answers_left_out_as_corrupt_are_not_missed() -> None:
    tables = scales_differ()

    class Gaps(Tables):
        def load(self, request: Any) -> Any:
            table = super().load(request)
            rows = np.delete(table.rows, 1)
            arrays = {key: array[rows] for key, array in table.arrays.items()}
            return type(table)([str(table.ids[int(row)]) for row in rows], None, arrays, rows)

    samples = evaluated(Retrieval(), Gaps(tables.targets, tables.features), grouped())
    whole = np.delete(np.arange(12), 1)
    only = Tables({"images": GROUPS[whole]}, lambda readout, split: tables.features(readout, split)[whole])
    less = grouped(SameGroup(GROUPS[whole]), lengths={"images": 11})
    expected = evaluated(Retrieval(), only, less)
    assert samples["ap"].tolist() == expected["ap"].tolist()
    assert "images/1" not in samples.ids


def test_what_it_has_no_meaning_for_is_refused() -> None:
    with pytest.raises(NotApplicableError, match=r"needs groups of images .*; g has target 'label'"):
        measured(grouped(target="label"))
    with pytest.raises(DataError, match="no image of 'images' has an answer"):
        measured(grouped(SameGroup(np.arange(12))))
    with pytest.raises(ContractError, match="without the groups"):
        measured(Dataset(grouped().card, lambda _: Split(["x"] * 12, unopened, None, "f")))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"scales": ()},
        {"scales": (0.0,)},
        {"scales": (1.0, float("nan"))},
        {"scales": (float("inf"),)},
        {"ks": (0,)},
        {"ks": (1, 1)},
        {"levels": ("easy",) * 2},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^retrieval.{next(iter(wrong))}="):
        Retrieval(**wrong)


def test_queries_for_one_thing_are_one_cluster_where_answers_are_graded() -> None:
    # Queries 0 and 1 share an easy answer, 1 and 2 a hard one; 3 asks alone. Junk joins nobody.
    easy, hard, junk = ([[1], [1, 2], [4], [6]], [[], [3], [3], []], [[9]] * 4)

    def answers(index: int) -> Groups:
        parts = ([*rows, *[[]] * 8][index] for rows in (easy, hard, junk))
        return Groups(*(np.array(part, np.int64) for part in parts), group=index)

    splits = {"queries": 12, "gallery": 12}
    dataset = grouped(answers, lengths=splits, train_split="gallery", test_split="queries", graded=True)
    samples = measured(dataset)
    assert samples.cluster == "cluster"
    same = samples["cluster"][:, None] == samples["cluster"]
    assert same.astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]


def test_partners_of_each_other_are_one_cluster_whatever_their_group() -> None:
    # As in AmsterTime: the group is the kind of picture, and those of one kind are junk.
    def answers(index: int) -> Groups:
        side, place = divmod(index, 6)
        own = side * 6 + np.arange(6)
        return Groups(np.array([(1 - side) * 6 + place]), own[:0], own, group=side)

    samples = measured(grouped(answers))
    cluster = samples["cluster"].tolist()
    assert cluster[:6] == cluster[6:]
    assert len(set(cluster)) == 6


def test_queries_that_each_ask_for_another_thing_have_no_cluster() -> None:
    def answers(index: int) -> Groups:
        rows = np.arange(index, index + 1)
        return Groups(rows if index % 2 else rows[:0], rows[:0], rows[:0], group=index)

    splits = {"queries": 12, "gallery": 12}
    dataset = grouped(answers, lengths=splits, train_split="gallery", test_split="queries")
    assert measured(dataset).cluster == ""


def test_queries_of_a_group_are_one_cluster_where_groups_are_a_sample() -> None:
    samples = measured(grouped())
    assert samples.cluster == "group"
    assert len(set(samples["group"].tolist())) > 1
