"""Near-duplicates: the threshold and its error, planted copies, and scores without them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.stats import beta
from typer.testing import CliRunner

from ssleval.backbones.zoo import load
from ssleval.cli.app import app
from ssleval.core import Context, DatasetOptions, Samples
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, DataError
from ssleval.features import FeatureSource
from ssleval.results import record
from ssleval.results.record import read_all
from ssleval.run.duplicates import best_among, best_in, descriptors, held_out, matches_above, threshold_at
from ssleval.run.leaks import Leaks, Side, find_leaks, known_of, read_known, refuse_answers, sides_of, without


def test_the_threshold_holds_its_rate_as_often_as_its_interval_says() -> None:
    """Of uniform similarities, the share above the threshold is known."""
    draws = np.random.default_rng(0).random((400, 199))
    limits = [threshold_at(best, 0.05) for best in draws]
    true = np.array([1 - limit.value for limit in limits])
    assert abs(true.mean() - 0.05) < 0.003
    covered = np.mean([limit.low <= rate <= limit.high for limit, rate in zip(limits, true, strict=True)])
    assert 0.92 < covered < 0.98
    assert (limits[0].low, limits[0].high) == pytest.approx(beta.interval(0.95, 10, 190))


@pytest.mark.parametrize(("count", "rate", "place"), [(99, 0.01, 1), (199, 0.01, 2), (150, 0.01, 1)])
def test_as_many_known_non_copies_lie_above_as_the_rate_allows(count: int, rate: float, place: int) -> None:
    limit = threshold_at(np.arange(count, dtype=float), rate)
    assert limit.value == count - place
    assert limit.rate == place / (count + 1) <= rate


@pytest.mark.parametrize("count", [0, 98])
def test_a_rate_that_so_few_images_cannot_show_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"in 99 images .* here are {count}"):
        threshold_at(np.zeros(count), 0.01)


def test_best_matches_are_those_of_a_full_search() -> None:
    random = np.random.default_rng(1)
    train, queries = (random.normal(size=(n, 6)).astype(np.float32) for n in (90, 40))
    train[7] = train[80]
    train, queries = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (train, queries))
    products, own = queries @ train.T, train @ train.T
    np.fill_diagonal(own, -2)
    np.testing.assert_allclose(best_in(train, queries), products.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(best_among(train, np.arange(90)), own.max(axis=1), atol=1e-6)
    assert best_among(train, np.array([7, 80])) == pytest.approx(1)
    pairs = matches_above(train, queries, 0.9, 10)
    assert {pair[:2] for pair in pairs} == set(zip(*np.nonzero(products > 0.9), strict=True))
    assert [pair[2] for pair in pairs] == sorted((pair[2] for pair in pairs), reverse=True)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve classes of noise images; of the test images six are edited copies and one is the same file."""
    root, random = tmp_path_factory.mktemp("planted"), np.random.default_rng(0)
    for split, each in (("train", 20), ("test", 10)):
        for name in range(12):
            folder = root / split / f"{name:02}"
            folder.mkdir(parents=True)
            for item in range(each):
                small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                small.resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{item}.png")
    for name in range(6):
        original = Image.open(root / "train" / f"{name:02}" / "3.png")
        ImageEnhance.Brightness(original).enhance(0.9).save(root / "test" / f"{name:02}" / "0.png")
    (root / "test" / "11" / "9.png").write_bytes((root / "train" / "11" / "0.png").read_bytes())
    return root


COPIES = [*(f"{name:02}/0.png" for name in range(6)), "11/9.png"]


@pytest.fixture(scope="module")
def found(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Leaks:
    cache = tmp_path_factory.mktemp("cache")
    dataset = open_dataset(f"folder:{planted}", DatasetOptions(cache=cache))
    source = FeatureSource(load("pixels"), Context(device="cpu", num_workers=0, cache=cache, progress=False))
    return find_leaks(source, *sides_of("planted", dataset), size=32)


def test_planted_copies_are_found_and_few_others(found: Leaks) -> None:
    assert set(COPIES) <= set(found.leaked)
    assert len(found.leaked) - len(COPIES) <= 5
    assert found.identical == [(119, 220)]
    best = {one: other for one, other, _ in reversed(found.to_dict()["pairs"])}
    assert [best[name] for name in COPIES] == [*(f"{name:02}/3.png" for name in range(6)), "11/0.png"]


def test_one_split_is_no_leak_of_itself(found: Leaks) -> None:
    source = FeatureSource(load("pixels"), Context(device="cpu", num_workers=0, progress=False))
    with pytest.raises(ConfigError, match="copy of itself"):
        find_leaks(source, found.train, found.train)


@pytest.mark.parametrize(("copies", "width"), [(0, 12), (120, 12), (0, 250)])
def test_the_rate_holds_within_classes_and_near_duplicates_only_lower_it(copies: int, width: int) -> None:
    """Also where a whitening has hardly more images than channels: it is learnt on others than the rate."""
    random = np.random.default_rng(3)
    centres = random.normal(size=(8, width))

    def draw(count: int) -> np.ndarray:
        return centres[random.integers(0, 8, count)] + 0.4 * random.normal(size=(count, width))

    train = draw(600)
    train[:copies] = train[copies : 2 * copies] + 0.001 * random.normal(size=(copies, width))
    held = held_out(600, 10_000)
    assert len(held) == 300
    (searched, queries), whitened = descriptors(held, train, draw(2_000))
    assert whitened
    limit = threshold_at(best_among(searched, held), 0.05)
    rate = float((best_in(searched, queries) > limit.value).mean())
    assert rate < 0.1
    assert (rate > 0.02) is (copies == 0)


def test_a_set_known_to_have_no_copy_gives_the_threshold(found: Leaks, planted: Path, tmp_path: Path) -> None:
    source = FeatureSource(
        load("pixels"), Context(device="cpu", num_workers=0, progress=False, cache=tmp_path)
    )
    known = Side("test", found.test.dataset, "test")
    again = find_leaks(source, found.train, found.test, non_copies=known, size=32, rate=0.1)
    assert again.non_copies == "test/test"
    assert again.threshold.n == 120
    assert len({row for row, *_ in again.pairs}) == 11


def test_the_picture_is_of_the_pairs(found: Leaks) -> None:
    from ssleval.display.pictures.leaks import draw_leaks

    assert draw_leaks(found, 3).width > 300
    with pytest.raises(DataError, match="no pair"):
        draw_leaks(replace(found, pairs=(), identical=()), 3)


def test_samples_without_some_images() -> None:
    samples = Samples(["a", "b", "c"], {"right": np.array([1, 0, 1])})
    left = without(samples, ["b"], ["a", "b", "c"], "knn")
    assert list(left.ids) == ["a", "c"]
    assert left["right"].tolist() == [1, 1]
    with pytest.raises(ConfigError, match="single images"):
        without(samples, ["b"], ["a", "b"], "knn")
    with pytest.raises(DataError, match="all 3 images"):
        without(samples, ["a", "b", "c"], ["a", "b", "c"], "knn")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"leaked": 3}'])
def test_other_files_are_refused(tmp_path: Path, found: Leaks, content: str) -> None:
    path = tmp_path / "leaks.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="leaks"):
        known_of(read_known(path), found.test)


@pytest.mark.parametrize("how", ["file", "own"])
def test_both_scores_are_in_the_result_and_the_first_is_as_without_the_option(
    planted: Path, tmp_path: Path, found: Leaks, how: str
) -> None:
    leaks = tmp_path / "leaks.json"
    leaks.write_text(json.dumps(found.to_dict()))
    folders = [f"--{name}={tmp_path / name}" for name in ("results", "cache")]
    asked = ["--model=pixels", f"--dataset=folder:{planted}", "--set=knn.ks=1", "--num-workers=0"]
    command = ["run", *asked, *folders, "--device=cpu"]
    plain = CliRunner().invoke(app, [*command, "--quiet"])
    assert "identical files: 1 image" in plain.stderr
    (before,) = read_all(tmp_path / "results")
    chosen = str(leaks) if how == "file" else "own"
    both = CliRunner().invoke(app, [*command, "--drop-leaks", chosen])
    assert both.exit_code == 0, both.output
    (after,) = read_all(tmp_path / "results")
    assert replace(after, leaks={}) == before
    assert after.leaks["dropped"] >= len(COPIES)
    samples = record.read_samples(after)
    lost = set(found.leaked) if how == "file" else None
    if lost is not None:
        kept = [name not in lost for name in samples.ids]
        column = after.metrics[after.headline].statistic["columns"]["column"]
        right = samples[column][kept].mean()
        assert after.leaks["metrics"][after.headline]["value"] == pytest.approx(right)
        assert after.leaks["metrics"][after.headline]["n"] == sum(kept)
    assert f"without {after.leaks['dropped']} leaked" in both.stdout


def test_answers_are_no_leaks_and_a_rate_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="what is looked for"):
        refuse_answers(open_dataset("scenes:retrieval", DatasetOptions(cache=tmp_path)))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        threshold_at(np.zeros(9), 0.0)


def test_a_file_of_other_data_is_refused_before_anything_is_measured(tmp_path: Path, found: Leaks) -> None:
    leaks = tmp_path / "leaks.json"
    leaks.write_text(json.dumps(found.to_dict()))
    command = ["run", "--model", "pixels", "--dataset", "digits", "--drop-leaks", str(leaks)]
    outcome = CliRunner().invoke(app, [*command, "--results", str(tmp_path / "results")])
    assert outcome.exit_code == 2
    assert "and not of digits/test" in outcome.stderr
