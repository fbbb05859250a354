from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from ssleval.core import Dataset, Readout, Samples
from ssleval.display.report.items import item_view
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.metrics.recorded import describe
from ssleval.results import Score
from ssleval.tasks.shift import Shift
from tests.tasks.feature_tables import CONTEXT, Tables, dataset, evaluated

DOMAINS = ("art", "photo", "sketch")
QUICK = Shift(strengths=(0.1, 1.0))


def tables(spread: float = 0.6, *, count: int = 90, moved: float = 0.0, labels: int = 3) -> Tables:
    """Domains of the same classes; those of the last are ``moved``."""
    targets = {name: np.arange(count + 3 * place) % labels for place, name in enumerate(DOMAINS)}
    centres = np.random.default_rng(5).standard_normal((labels, 8))
    away = np.random.default_rng(6).standard_normal((labels, 8))

    def features(readout: Readout, split: str) -> np.ndarray:
        random = np.random.default_rng([DOMAINS.index(split), len(readout.kind)])
        places = centres + (split == "sketch") * moved * away
        return (places[targets[split]] + spread * random.standard_normal((len(targets[split]), 8))).astype(
            "f4"
        )

    return Tables(targets, features)


def opened(given: Tables, **card: Any) -> Dataset:
    return dataset(given, **{"domains": DOMAINS, "test_split": "art", **card})


def run(task: Shift, given: Tables, seed: int = 0) -> tuple[dict[str, float], Samples]:
    data = opened(given)
    samples = evaluated(task, given, data, replace(CONTEXT, seed=seed))
    return {metric.name: metric.score(samples) for metric in task.resolved(data).metrics}, samples


def test_a_domain_that_looks_different_is_told_by_its_own_score() -> None:
    found, samples = run(QUICK, tables(0.4, moved=1.5))
    assert found["top1@art"] > 0.9
    assert found["in_domain"] > 0.9
    assert found["top1@sketch"] < found["top1@art"] - 0.2
    assert found["top1"] == pytest.approx(np.mean([found[f"top1@{name}"] for name in DOMAINS]))
    assert found["nll"] > found["nll@in_domain"]
    assert list(samples.ids[:2]) == ["art/art/0", "art/art/1"]
    assert list(found)[:2] == ["top1", "in_domain"]


def test_scores_are_those_of_scikit_learn_on_the_parts_it_may_see() -> None:
    given = tables(1.5, moved=0.5)
    found, samples = run(replace(QUICK, strengths=(0.1,)), given)
    features = {name: given.features(Readout("pooled"), name) for name in DOMAINS}
    test_part = {name: ~np.isnan(_own(samples, name)) for name in DOMAINS}
    assert all(part.sum() == pytest.approx(0.2 * len(part), abs=3) for part in test_part.values())
    losses: list[float] = []
    for target in DOMAINS:
        sources = [name for name in DOMAINS if name != target]
        known = np.concatenate([features[name][~test_part[name]] for name in sources])
        labels = np.concatenate([given.targets[name][~test_part[name]] for name in sources])
        peer: Any = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(known, labels)
        truth = given.targets[target]
        assert found[f"top1@{target}"] == (peer.predict(features[target]) == truth).mean()
        losses.append(
            -np.log(softmax(peer.decision_function(features[target]), axis=1))[
                np.arange(len(truth)), truth
            ].mean()
        )
        for name in sources:
            own = peer.predict(features[name][test_part[name]]) == given.targets[name][test_part[name]]
            assert found[f"in_domain@without {target}/{name}"] == pytest.approx(own.mean())
    assert found["nll"] == pytest.approx(np.mean(losses), rel=1e-3)


def _own(samples: Samples, name: str) -> np.ndarray:
    other = next(one for one in DOMAINS if one != name)
    return samples[f"in_domain@without {other}/{name}"][samples["domain"] == DOMAINS.index(name)]


def test_one_source_gives_a_score_for_every_pair_of_domains() -> None:
    found, samples = run(replace(QUICK, protocol="single_source"), tables(1.0, moved=1.0))
    pairs = [f"top1@{one}/{other}" for one in DOMAINS for other in DOMAINS if one != other]
    assert [name for name in found if name.startswith("top1@")] == pairs
    assert [name for name in found if name.startswith("in_domain@")] == [
        f"in_domain@{name}" for name in DOMAINS
    ]
    assert found["top1"] == pytest.approx(np.mean([found[name] for name in pairs]))
    assert found["in_domain"] == pytest.approx(np.mean([found[f"in_domain@{name}"] for name in DOMAINS]))
    # An image of a foreign domain is tested by the head of each other one.
    assert samples["seen@top1"].sum(axis=1).tolist() == [2] * len(samples)


def test_neither_the_choice_of_c_nor_the_fit_sees_the_domain_that_is_tested() -> None:
    given = tables(1.0)
    honest = run(QUICK, given)[1]["top1@sketch"]
    # Other labels in the domain itself change which predictions are right, and no prediction.
    swapped = Tables({**given.targets, "sketch": (given.targets["sketch"] + 1) % 3}, given.features)
    spoilt = run(QUICK, swapped)[1]
    rows = ~np.isnan(honest)
    assert rows.sum() == 96
    assert spoilt["confidence@top1"][rows, 2] == pytest.approx(
        run(QUICK, given)[1]["confidence@top1"][rows, 2]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "single_source"},
        {"domains": ("art", "sketch")},
        {"test_part": 0.6},
        {"held_out": 0.7},
        {"strengths": (1e-3,)},
        {"readout": "mean"},
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(change: dict[str, Any]) -> None:
    strengths = {"strengths": tuple(10.0**power for power in range(-4, 5))} if "held_out" in change else {}
    one, other = (
        run(replace(QUICK, **{**strengths, **more}), tables(2.0, moved=1.0))[0] for more in ({}, change)
    )
    assert (one["top1"], one["nll"]) != (other["top1"], other["nll"])


def test_the_test_part_is_the_same_for_every_seed() -> None:
    first, second = (run(QUICK, tables(), seed)[1] for seed in (0, 1))
    assert np.array_equal(first["seen@in_domain"], second["seen@in_domain"])


def test_pairs_of_head_and_domain_are_not_taken_for_classes() -> None:
    described = describe(Shift().metrics[0].statistic)
    assert described["name"] == "mean_over_parts_of"
    _, samples = run(QUICK, tables())
    view = item_view(samples, Score(0.5, (0.0, 1.0), 1, statistic=described))
    assert view is not None
    assert view.classes is None
    assert view.values is not None


def test_domains_that_cannot_be_scored_are_refused() -> None:
    given = tables()
    with pytest.raises(NotApplicableError, match="blobs has none"):
        Shift().resolved(opened(given, domains=()))
    with pytest.raises(ConfigError, match="did you mean photo"):
        Shift(domains=("art", "photos")).resolved(opened(given))
    with pytest.raises(ConfigError, match="domains=art alone"):
        Shift(domains=("art",)).resolved(opened(given))
    with pytest.raises(ConfigError, match="not the split photo alone"):
        Shift().resolved(opened(given, test_split="photo"))
    with pytest.raises(DataError, match=r"2 test images in photo; it needs 3"):
        run(QUICK, tables(count=8, labels=2))
