import numpy as np
import pytest

from ssleval.core import Metric, Samples
from ssleval.core.corruptions import CORRUPTIONS, SEVERITIES
from ssleval.metrics.corruption import ALEXNET_ERRORS, WORST, image_errors, mean_corruption_error_of
from ssleval.metrics.intervals import estimates

MCE = Metric("mce", mean_corruption_error_of("wrong"), higher_is_better=False)


def drawn(count: int = 40, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    hard = random.uniform(0.05, 0.9, (15, 5))
    return Samples([str(i) for i in range(count)], {"wrong": random.random((count, 15, 5)) < hard})


def test_the_order_of_the_errors_is_that_of_the_dataset() -> None:
    assert tuple(ALEXNET_ERRORS) == CORRUPTIONS
    assert SEVERITIES == (1, 2, 3, 4, 5)


def test_mce_is_the_published_sum_over_severities_and_mean_over_corruptions() -> None:
    samples = drawn()
    weights = np.random.default_rng(1).integers(0, 3, (2, 40)).astype(float)
    weights[0] = 1
    for row, found in zip(weights, MCE.statistic(samples, weights), strict=True):
        published: list[float] = []
        for place, name in enumerate(CORRUPTIONS):
            ours = alexnet = 0.0
            for severity in range(5):
                missed = samples["wrong"][:, place, severity]
                ours += float(np.average(missed.astype(float), weights=row))
                alexnet += ALEXNET_ERRORS[name]
            published.append(ours / alexnet)
        assert found == pytest.approx(sum(published) / 15)


def test_alexnet_itself_has_the_value_one() -> None:
    wrong = np.zeros((1000, 15, 5), dtype=bool)
    for place, error in enumerate(ALEXNET_ERRORS.values()):
        wrong[: round(error * 1000), place] = True
    assert MCE.score(Samples([str(i) for i in range(1000)], {"wrong": wrong})) == pytest.approx(1, abs=1e-3)


def test_easy_corruptions_of_alexnet_weigh_more() -> None:
    scores: dict[str, float] = {}
    for place, name in enumerate(CORRUPTIONS):
        wrong = np.zeros((4, 15, 5), dtype=bool)
        wrong[:, place] = True
        scores[name] = MCE.score(Samples(list("abcd"), {"wrong": wrong}))
    assert max(scores, key=scores.__getitem__) == "brightness"
    assert min(scores, key=scores.__getitem__) == "impulse_noise"


def test_the_interval_is_of_images_not_of_their_variants() -> None:
    # Every image is either right on all its 75 variants or on none: 40 independent things, not 3,000.
    wrong = np.repeat(np.arange(40) % 2 == 0, 75).reshape(40, 15, 5)
    found = estimates((MCE,), Samples([str(i) for i in range(40)], {"wrong": wrong}))["mce"]
    scale = float(np.mean([1 / error for error in ALEXNET_ERRORS.values()]))
    expected = 2 * 1.96 * (0.25 / 40) ** 0.5 * scale
    assert found.high - found.low == pytest.approx(expected, rel=0.15)


def test_what_images_contribute_averages_to_the_score() -> None:
    samples = drawn()
    assert image_errors(samples["wrong"]).mean() == pytest.approx(MCE.score(samples))
    assert image_errors(np.ones((1, 15, 5), bool)) == pytest.approx([WORST])


def test_the_errors_of_alexnet_are_those_of_the_published_script() -> None:
    # hendrycks/robustness, ImageNet-C/test.py, by name.
    assert dict(ALEXNET_ERRORS) == {
        "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640,
        "defocus_blur": 0.819880, "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360,
        "snow": 0.866816, "frost": 0.826572, "fog": 0.819324, "brightness": 0.564592,
        "contrast": 0.853204, "elastic_transform": 0.646056, "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    }  # fmt: skip
    assert pytest.approx(np.mean([1 / error for error in ALEXNET_ERRORS.values()])) == WORST
