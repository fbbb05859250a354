"""Heads of a small ImageNet on small relatives of it, whose images are noise around their class's colour."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from ssleval.backbones.zoo import load
from ssleval.core import (
    BackboneCard,
    Context,
    Dataset,
    DatasetCard,
    DatasetOptions,
    FeatureRequest,
    FeatureTable,
    Geometry,
    Split,
    datasets,
)
from ssleval.core.backbone import Backbone
from ssleval.core.corruptions import CORRUPTIONS
from ssleval.core.geometry import apply
from ssleval.datasets.prompts import class_prompts, imagenet_names
from ssleval.datasets.published import Published
from ssleval.errors import ConfigError, ContractError, DataError, NotApplicableError
from ssleval.features import FeatureSource
from ssleval.heads.probes import BLOCKS, fit_linear, text_classifier
from ssleval.metrics.intervals import estimates
from ssleval.tasks.robustness import Robustness
from ssleval.tasks.zeroshot import Zeroshot
from tests.tasks.clip_models import tiny_clip
from tests.tasks.feature_tables import evaluated

WNIDS = tuple(imagenet_names())[:12]
CONTEXT = Context(progress=False)
SMALL = Robustness(iterations=40, resize=20, crop=16)


@dataclass(frozen=True)
class Blobs:
    """Noise around the colour of a WordNet id; those in `damaged` cannot be decoded."""

    wnids: Sequence[str]
    seed: int
    spread: float
    damaged: tuple[int, ...] = ()

    def __call__(self, index: int) -> Image.Image:
        if index in self.damaged:
            raise DataError(f"{index}: cannot be decoded")
        random = np.random.default_rng([self.seed, index])
        colour = np.random.default_rng(int(self.wnids[index][1:])).uniform(40, 215, 3)
        pixels = colour + self.spread * random.normal(size=3) + 50 * random.normal(size=(24, 30, 3))
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def made(
    name: str,
    wnids: Sequence[str],
    count: int = 36,
    *,
    spread: float = 60.0,
    splits: Any = ("test",),
    **card: Any,
) -> Dataset:
    """Return a set of ``count`` images of ``wnids`` in turn, its classes unless ``card`` says more."""
    labels = np.arange(count) % len(wnids)

    def open_split(split: str) -> Split:
        seed = sum(map(ord, name + split))
        targets = card_.target == "multilabel" and np.eye(card_.num_classes, dtype=bool)[labels]
        shown = [wnids[label] for label in labels.tolist()]
        ids = [f"{wnid}/{i}" for i, wnid in enumerate(shown)]
        images = Blobs(shown, seed, spread)
        return Split(ids, images, labels if targets is False else targets, f"{name}{split}{spread}")

    lengths = dict.fromkeys(splits, count)
    card_ = DatasetCard(name, class_names=tuple(wnids), lengths=lengths, test_split=next(iter(splits)))
    card_ = replace(card_, **card)
    return Dataset(card_, open_split)


TRAINED = made("imagenet1k", WNIDS, 96, spread=10.0, splits=("val", "train"))


def relative(name: str, wnids: Sequence[str] = WNIDS, **settings: Any) -> Dataset:
    return replace(made(name, wnids, **settings), fitted_on=lambda: TRAINED)


def corrupted(count: int = 4, **settings: Any) -> Dataset:
    variants = [f"{name}-{severity}" for name in CORRUPTIONS for severity in range(1, 6)]
    return relative("imagenet_c", WNIDS[:4], count=count, splits=variants, **settings)


@dataclass
class Eyes:
    """A source that sees mean colours: of the picture as its mean patch, of a quarter as class token."""

    asked: list[FeatureRequest] = field(default_factory=list[FeatureRequest])

    @property
    def backbone(self) -> Backbone:
        return cast("Backbone", SimpleNamespace(card=BackboneCard("eyes", "test", "eyes", 3, 4)))

    def load(self, request: FeatureRequest) -> FeatureTable:
        self.asked.append(request)
        split = request.dataset.split(request.split)
        assert isinstance(request.geometry, Geometry)
        damaged = cast("Blobs", split.image).damaged
        kept = [i for i in range(len(split)) if i not in damaged]
        rows = np.array(kept)
        pixels = np.stack([apply(request.geometry, split.image(i)) for i in rows]) / np.float32(128) - 1
        means = {"mean": pixels.mean((1, 2)), "cls": pixels[:, :8, :8].mean((1, 2))}
        arrays = {readout: means[readout.kind] * abs(readout.block) for readout in request.readouts}
        assert split.targets is not None
        return FeatureTable([split.ids[i] for i in kept], split.targets[rows], arrays, rows)


def scores(dataset: Dataset, task: Robustness = SMALL) -> dict[str, float]:
    samples = evaluated(task, Eyes(), dataset, CONTEXT)
    return {metric.name: metric.score(samples) for metric in task.resolved(dataset).metrics}


@cache
def logits_of_head(dataset_name: str, wnids: tuple[str, ...]) -> np.ndarray:
    """All 12 logits of the head, found without the task."""
    train, test = SMALL.requests(relative(dataset_name, wnids))
    head = fit_linear(Eyes().load(train), 12, iterations=40, held_out=0.1, context=CONTEXT)
    return head(Eyes().load(test))


def test_the_head_is_fitted_on_imagenet_and_applied_unchanged() -> None:
    dataset = relative("imagenet_sketch")
    samples = evaluated(SMALL, Eyes(), dataset)
    assert samples["predicted"].tolist() == logits_of_head("imagenet_sketch", WNIDS).argmax(1).tolist()
    assert samples["label"].tolist() == [i % 12 for i in range(36)]
    assert 1 / 12 < scores(dataset)["top1"] < 1
    train, test = SMALL.requests(dataset)
    assert (train.dataset.card.name, train.split) == ("imagenet1k", "train")
    assert (test.dataset.card.name, test.split) == ("imagenet_sketch", "test")
    assert train.geometry == test.geometry == Geometry(20, "short", 16, "bicubic")
    assert train.readouts == test.readouts == BLOCKS


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_classes_that_the_set_lacks_do_not_compete(name: str) -> None:
    # Neither sorted nor neighbours, so that a head read at the wrong places is another number.
    wnids = (WNIDS[9], WNIDS[2], WNIDS[5])
    logits, truth = logits_of_head(name, wnids), np.arange(36) % 3
    masked = logits[:, [9, 2, 5]].argmax(1)
    assert evaluated(SMALL, Eyes(), relative(name, wnids), CONTEXT)["predicted"].tolist() == masked.tolist()
    unmasked = (logits.argmax(1) == np.array([9, 2, 5])[truth]).mean()
    assert scores(relative(name, wnids))["top1"] == (masked == truth).mean() > unmasked


def test_the_mask_is_of_the_card_not_of_the_labels_present() -> None:
    listed = (*WNIDS[:3], WNIDS[7])
    dataset = relative("imagenet_a", WNIDS[:3], class_names=listed)
    predicted = evaluated(SMALL, Eyes(), dataset)["predicted"]
    logits = logits_of_head("imagenet_a", WNIDS[:3])
    assert predicted.tolist() == logits[:, [0, 1, 2, 7]].argmax(1).tolist()
    assert 3 in predicted


def test_folders_of_v2_are_numbers() -> None:
    by_name = scores(relative("imagenet_v2"))["top1"]
    numbers = tuple(map(str, range(12)))
    assert scores(relative("imagenet_v2", class_names=numbers))["top1"] == by_name
    as_text = scores(relative("imagenet_v2", class_names=tuple(sorted(numbers))))["top1"]
    assert as_text < by_name


def test_a_class_the_head_lacks_is_refused() -> None:
    dataset = relative("imagenet_r", (WNIDS[0], "n99999999"))
    with pytest.raises(DataError, match="imagenet_r: 'n99999999' is none of the 12 classes of imagenet1k"):
        evaluated(SMALL, Eyes(), dataset)


def test_real_is_right_on_any_of_its_labels() -> None:
    single = relative("imagenet_real", target="multilabel")
    predicted = logits_of_head("imagenet_real", WNIDS).argmax(1)
    assert scores(single) == {"real": (predicted == np.arange(36) % 12).mean()}
    several = single.split("test")
    assert several.targets is not None
    targets = several.targets.copy()
    targets[np.arange(18), predicted[:18]] = True

    def relabelled(_: str) -> Split:
        return replace(several, targets=targets)

    both = replace(single, open=relabelled)
    expected = np.where(np.arange(36) < 18, True, several.targets[np.arange(36), predicted]).mean()
    assert scores(both) == {"real": expected}
    assert scores(both)["real"] > scores(single)["real"]


def test_mce_is_of_all_corruptions_cropped_and_never_resized() -> None:
    dataset, eyes = corrupted(), Eyes()
    samples = evaluated(SMALL, eyes, dataset, CONTEXT)
    train, *tested = eyes.asked
    assert train.geometry == Geometry(20, "short", 16, "bicubic")
    assert {request.geometry for request in tested} == {Geometry(None, "short", 16)}
    assert [request.split for request in tested] == [
        f"{name}-{severity}" for name in CORRUPTIONS for severity in (1, 2, 3, 4, 5)
    ]
    assert list(samples.ids) == [f"{WNIDS[i]}/{i}" for i in range(4)]
    assert samples["wrong"].shape == (4, 15, 5)
    for name, severity in (("fog", 3), ("jpeg_compression", 5)):
        split = dataset.evaluated_on(f"{name}-{severity}")
        one = evaluated(replace(SMALL, metric="top1"), Eyes(), split, CONTEXT)
        column = samples["wrong"][:, CORRUPTIONS.index(name), severity - 1]
        assert (~column).tolist() == one["top1"].tolist()
    found = scores(dataset)
    assert found["mean_error"] == pytest.approx(samples["wrong"].mean())
    assert found["mce"] > found["mean_error"] > 0
    assert [metric.higher_is_better for metric in SMALL.resolved(dataset).metrics] == [False, False]


def damaged(dataset: Dataset, split: str, rows: tuple[int, ...]) -> Dataset:
    """Return the dataset with images of one split that cannot be decoded."""

    def open_split(name: str) -> Split:
        opened = dataset.open(name)
        hidden = rows if name == split else ()
        return replace(opened, image=replace(cast("Any", opened.image), damaged=hidden))

    return replace(dataset, open=open_split)


def test_an_image_damaged_in_one_variant_is_left_out_of_all() -> None:
    whole = evaluated(SMALL, Eyes(), corrupted(), CONTEXT)
    left = evaluated(SMALL, Eyes(), damaged(corrupted(), "fog-3", (0, 2)), CONTEXT)
    assert list(left.ids) == [whole.ids[1], whole.ids[3]]
    for column in left.columns:
        assert left[column].tolist() == whole[column][[1, 3]].tolist()


def test_splits_of_other_images_are_refused() -> None:
    dataset = corrupted()

    def other(name: str) -> Split:
        opened = dataset.open(name)
        return opened if name != "snow-2" else replace(opened, ids=[*opened.ids[:3], "x"])

    with pytest.raises(DataError, match="imagenet_c/snow-2: image x where other splits have"):
        evaluated(SMALL, Eyes(), replace(dataset, open=other), CONTEXT)


def test_one_split_of_c_is_not_taken_for_mce() -> None:
    with pytest.raises(ConfigError, match=r"all 75 splits of imagenet_c, not 'fog-3' alone; .*metric=top1"):
        SMALL.resolved(corrupted().evaluated_on("fog-3"))


@pytest.mark.parametrize(
    "setting",
    [{"iterations": 3}, {"held_out": 0.8}, {"resize": 26}, {"crop": 12}, {"interpolation": "nearest"}],
    ids=str,
)
def test_every_setting_changes_what_is_measured(setting: dict[str, Any]) -> None:
    before, after = (
        evaluated(task, Eyes(), relative("imagenet_r", count=96), CONTEXT)["predicted"].tolist()
        for task in (SMALL, replace(SMALL, **setting))
    )
    again = evaluated(SMALL, Eyes(), relative("imagenet_r", count=96), CONTEXT)
    assert before == again["predicted"].tolist() != after


def test_what_it_has_no_meaning_for_is_refused() -> None:
    with pytest.raises(NotApplicableError, match="heads of imagenet1k are fitted on its own images"):
        SMALL.resolved(TRAINED)
    with pytest.raises(NotApplicableError, match="imagenet_a is scored by top1, not by mce"):
        replace(SMALL, metric="mce").resolved(relative("imagenet_a"))
    with pytest.raises(ConfigError, match="iterations=-1: expected a whole number >= 0"):
        replace(SMALL, iterations=-1)
    with pytest.raises(ConfigError, match=r"held_out=1\.0: expected a number < 1"):
        replace(SMALL, held_out=1.0)


# Classes that several outputs stand for -----------------------------------------------------------

OUTPUTS = ((WNIDS[9], WNIDS[2]), (WNIDS[5],), (WNIDS[0], WNIDS[7], WNIDS[11]))
GROUPS = ([9, 2], [5], [0, 7, 11])
SHOWN = (WNIDS[2], WNIDS[5], WNIDS[11])
VARIATIONS = (
    "original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t"
)  # fmt: skip


def merged(name: str, **card: Any) -> Dataset:
    return relative(name, SHOWN, class_names=("knife", "bird", "chair"), outputs=OUTPUTS, **card)


@cache
def head_of_twelve() -> Any:
    train, _ = SMALL.requests(relative("imagenet_sketch"))
    return fit_linear(Eyes().load(train), 12, iterations=40, held_out=0.1, context=CONTEXT)


def every_logit(dataset: Dataset, split: str) -> np.ndarray:
    """Return the 12 logits of the head on a split, found without the task."""
    _, *tested = SMALL.resolved(dataset).requests(dataset)
    return head_of_twelve()(Eyes().load(next(request for request in tested if request.split == split)))


def group_of(output: int) -> int:
    return next((label for label, group in enumerate(GROUPS) if output in group), 3)


@pytest.mark.parametrize("metric", ["card", "all"])
def test_the_best_of_its_outputs_stands_for_a_class(metric: Any) -> None:
    dataset, task = merged("objectnet"), replace(SMALL, metric=metric)
    samples = evaluated(task, Eyes(), dataset, CONTEXT)
    competing = (9, 2, 5, 0, 7, 11) if metric == "card" else range(12)
    logits = every_logit(dataset, "test")
    best = [group_of(max(competing, key=lambda output, row=row: row[output])) for row in logits]
    assert samples["predicted"].tolist() == best
    assert scores(dataset, task)["top1"] == np.mean([label == row % 3 for row, label in enumerate(best)])
    assert (3 in best) == (metric == "all")
    if metric == "all":
        # The largest of many outputs is no probability of what they stand for.
        assert not {"confidence", "nll"} & set(samples.columns)
        return
    shown = np.array([[row[group].max() for group in GROUPS] for row in logits])
    sure = np.exp(shown - shown.max(1, keepdims=True))
    np.testing.assert_allclose(samples["confidence"], 1 / sure.sum(1), rtol=1e-5)


def test_all_outputs_compete_on_sets_of_fewer_classes_where_asked() -> None:
    dataset = relative("imagenet_a", SHOWN)
    found = evaluated(replace(SMALL, metric="all"), Eyes(), dataset, CONTEXT)
    best = every_logit(dataset, "test").argmax(1).tolist()
    assert found["top1"].tolist() == [output == (2, 5, 11)[row % 3] for row, output in enumerate(best)]


def test_imagenet9_is_scored_on_every_variation_with_all_outputs_competing() -> None:
    dataset, eyes = merged("imagenet9", splits=VARIATIONS, count=18, spread=90.0), Eyes()
    samples = evaluated(SMALL, eyes, dataset, CONTEXT)
    train, *tested = eyes.asked
    assert train.geometry == Geometry(20, "short", 16, "bicubic")
    assert {request.geometry for request in tested} == {Geometry(None, "short", 16)}
    assert [request.split for request in tested] == list(VARIATIONS)
    assert len(samples) == 8 * 18
    assert len(set(samples.ids)) == 8 * 18
    right = {
        name: np.mean(
            [group_of(output) == row % 3 for row, output in enumerate(every_logit(dataset, name).argmax(1))]
        )
        for name in VARIATIONS
    }
    metrics = SMALL.resolved(dataset).metrics
    found = {metric.name: metric.score(samples) for metric in metrics}
    assert next(iter(found)) == "top1@mixed_rand"
    gap = found.pop("bg_gap")
    assert found == pytest.approx({f"top1@{name}": share for name, share in right.items()})
    assert gap == pytest.approx(right["mixed_same"] - right["mixed_rand"])
    assert gap != 0
    assert not metrics[-1].higher_is_better
    estimated = estimates(metrics, samples)["bg_gap"]
    # Of two means of 18 images each, as for independent ones.
    spread = np.sqrt(sum(right[name] * (1 - right[name]) / 18 for name in ("mixed_same", "mixed_rand")))
    assert estimated.low < gap - spread < gap + spread < estimated.high
    assert estimated.high - estimated.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    alone = replace(SMALL, metric="all"), dataset.evaluated_on("only_fg")
    assert scores(alone[1], alone[0])["top1"] == right["only_fg"]
    nine = scores(alone[1], replace(SMALL, metric="top1"))["top1"]
    own = [9, 2, 5, 0, 7, 11]
    best = [group_of(own[place]) for place in every_logit(dataset, "only_fg")[:, own].argmax(1)]
    assert nine == np.mean([label == row % 3 for row, label in enumerate(best)]) >= right["only_fg"]


def test_one_variation_is_not_taken_for_all_of_them() -> None:
    dataset = merged("imagenet9", splits=VARIATIONS).evaluated_on("only_fg")
    with pytest.raises(ConfigError, match=r"all 8 splits of imagenet9, not 'only_fg' alone; .*metric=all"):
        SMALL.resolved(dataset)
    with pytest.raises(NotApplicableError, match="texts are of the set's own classes"):
        replace(SMALL, head="zeroshot", metric="all").resolved(dataset)
    with pytest.raises(NotApplicableError, match="imagenet_sketch has all classes of the head"):
        replace(SMALL, metric="all").resolved(relative("imagenet_sketch"))
    with pytest.raises(NotApplicableError, match="imagenet_real is scored by real, not by all"):
        replace(SMALL, metric="all").resolved(relative("imagenet_real", target="multilabel"))


def households(count: int = 36, regions: Sequence[str] = ("africa", "americas", "asia", "europe")) -> Dataset:
    """Return images of two labels each, the other one of the next class, by region and income."""
    single = relative("dollar_street", count=count, target="multilabel")
    incomes = ("low_income", "medium_income", "high_income")

    def opened(split: str) -> Split:
        whole = single.split(split)
        assert whole.targets is not None
        ids = [
            f"{regions[i % len(regions)]}/{incomes[i % 3]}/assets/{i}/{i}.jpg" for i in range(len(whole.ids))
        ]
        return replace(whole, ids=ids, targets=whole.targets | np.roll(whole.targets, 1, axis=1))

    return replace(single, open=opened)


def test_dollar_street_is_right_on_any_label_also_by_region_and_income() -> None:
    dataset = households()
    samples = evaluated(SMALL, Eyes(), dataset, CONTEXT)
    order = [
        sorted(range(12), key=lambda output, row=row: -row[output]) for row in every_logit(dataset, "test")
    ]
    labels = [{row % 12, (row + 1) % 12} for row in range(36)]
    first = [ranked[0] in of for ranked, of in zip(order, labels, strict=True)]
    five = [bool({*ranked[:5]} & of) for ranked, of in zip(order, labels, strict=True)]
    found = {metric.name: metric.score(samples) for metric in SMALL.resolved(dataset).metrics}
    assert list(found)[:2] == ["top1", "top5"]
    assert (found["top1"], found["top5"]) == (np.mean(first), np.mean(five))
    assert found["top1@asia"] == np.mean(first[2::4])
    assert found["top5@low_income"] == np.mean(five[0::3])
    assert len(found) == 16
    assert 0 < found["top1"] < found["top5"] < 1


def test_a_group_without_an_image_is_refused() -> None:
    with pytest.raises(DataError, match="dollar_street: no image of europe is scored; raise --limit"):
        evaluated(SMALL, Eyes(), households(regions=("africa", "americas", "asia")), CONTEXT)


def test_a_class_that_no_output_stands_for_is_refused() -> None:
    dataset = merged("objectnet")
    emptied = replace(dataset, card=replace(dataset.card, outputs=(OUTPUTS[0], (), OUTPUTS[2])))
    with pytest.raises(ContractError, match="objectnet: no output of a head stands for some of its classes"):
        evaluated(SMALL, Eyes(), emptied, CONTEXT)


def test_texts_are_of_the_classes_of_the_set(tmp_path: Path) -> None:
    backbone = tiny_clip(tmp_path / "clip")
    task = replace(SMALL, head="zeroshot", templates="imagenet_seven")
    whole = merged("imagenet9", splits=VARIATIONS, count=3)
    found = measured(backbone, whole, task, tmp_path)
    one = whole.evaluated_on("mixed_next")
    same = measured(backbone, one, Zeroshot(templates="imagenet_seven"), tmp_path)
    assert found["predicted"][9:12].tolist() == same["predicted"].tolist()
    assert set(found["predicted"].tolist()) <= {0, 1, 2}
    shared = households(12)
    texts = measured(backbone, shared, task, tmp_path)
    # The texts of ImageNet's own classes.
    request, *_ = task.resolved(shared).requests(shared)
    table = FeatureSource(backbone, Context(cache=tmp_path, progress=False)).load(request)
    every = text_classifier(backbone, class_prompts(TRAINED.card, "imagenet_seven"))(table)
    assert texts["predicted"].tolist() == every.argmax(1).tolist()


# Texts --------------------------------------------------------------------------------------------


def measured(backbone: Backbone, dataset: Dataset, task: Any, cache: Path) -> Any:
    source = FeatureSource(backbone, Context(cache=cache, progress=False))
    return evaluated(task, source, dataset, source.context)


def test_texts_compete_among_the_classes_of_the_set(tmp_path: Path) -> None:
    backbone, wnids = tiny_clip(tmp_path / "clip"), (WNIDS[9], WNIDS[2], WNIDS[5])
    dataset = relative("imagenet_a", wnids)
    texts = replace(SMALL, head="zeroshot", templates="imagenet_seven")
    (request,) = texts.requests(dataset)
    assert (request.dataset.card.name, request.geometry) == ("imagenet_a", None)
    found = measured(backbone, dataset, texts, tmp_path)
    # A head of all 12 classes, masked afterwards, says the same.
    table = FeatureSource(backbone, Context(cache=tmp_path, progress=False)).load(request)
    every = text_classifier(backbone, class_prompts(TRAINED.card, "imagenet_seven"))(table)
    assert found["predicted"].tolist() == every[:, [9, 2, 5]].argmax(1).tolist()
    assert set(every.argmax(1).tolist()) != {9, 2, 5}
    same = measured(backbone, dataset, Zeroshot(templates="imagenet_seven"), tmp_path)
    assert found["top1"].tolist() == same["top1"].tolist()


def test_texts_are_scored_on_real_and_need_no_training_images(tmp_path: Path) -> None:
    def absent() -> Dataset:
        raise AssertionError("imagenet1k was opened")

    backbone = tiny_clip(tmp_path / "clip")
    dataset = replace(relative("imagenet_real", target="multilabel"), fitted_on=absent)
    task = replace(SMALL, head="zeroshot", templates="simple")
    samples = measured(backbone, dataset, task, tmp_path)
    assert samples["real"].tolist() == [p == i % 12 for i, p in enumerate(samples["predicted"].tolist())]
    other = measured(backbone, dataset, replace(task, templates="imagenet_seven"), tmp_path)
    assert samples["predicted"].tolist() != other["predicted"].tolist()


def test_texts_are_recorded_and_pinned() -> None:
    dataset, task = relative("imagenet_a"), replace(SMALL, head="zeroshot")
    resolved = task.resolved(dataset)
    assert resolved.templates == "imagenet"
    assert len(resolved.prompts_sha256) == 64
    assert task.resolved(relative("imagenet_a", WNIDS[:3])).prompts_sha256 != resolved.prompts_sha256
    with pytest.raises(ConfigError, match=r"prompts of imagenet_a have sha256 \w+, not 00"):
        replace(task, prompts_sha256="00").resolved(dataset)
    assert SMALL.resolved(dataset).prompts_sha256 == ""


def test_a_model_without_texts_is_left_out() -> None:
    source = FeatureSource(load("pixels"), CONTEXT)
    source.check_needs("robustness", SMALL.needs)
    with pytest.raises(NotApplicableError, match="text"):
        source.check_needs("robustness", replace(SMALL, head="zeroshot").needs)


# Files --------------------------------------------------------------------------------------------


def test_published_sets_open_imagenet_when_a_head_is_fitted(tmp_path: Path) -> None:
    for wnid, level in zip(WNIDS[:3], (0, 100, 200), strict=True):
        for place in (
            f"imagenet1k/train/{wnid}/1.png",
            f"imagenet1k/val/{wnid}/1.png",
            f"imagenet_a/{wnid}/1.png",
        ):
            (tmp_path / place).parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (level, level, level)).save(tmp_path / place)
    loader = datasets.get("imagenet_a")
    assert isinstance(loader, Published)
    whole = loader.fitted_on
    assert isinstance(whole, Published)
    assert whole is datasets.get("imagenet1k")
    trained = replace(whole, card=replace(whole.card, classes=3, lengths={"train": 3, "val": 3}))
    reduced = replace(loader, card=replace(loader.card, classes=3, lengths={"test": 3}), fitted_on=trained)
    for dataset in (
        opened := reduced("", DatasetOptions(tmp_path)),
        opened.limited(2),
        opened.evaluated_on("test"),
    ):
        train, _ = SMALL.requests(dataset)
        assert train.dataset is SMALL.requests(dataset)[0].dataset
        assert len(train.dataset.split("train")) == min(3, dataset.card.lengths["test"])
    assert opened.fitted_on is not None
    assert opened.fitted_on().card.class_names == WNIDS[:3]
    for name in ("imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_real", "imagenet_c"):
        known = datasets.get(name)
        assert isinstance(known, Published)
        assert known.fitted_on is datasets.get("imagenet1k")


def test_without_imagenet_only_texts_are_compared(tmp_path: Path) -> None:
    (tmp_path / f"imagenet_a/{WNIDS[0]}").mkdir(parents=True)
    (tmp_path / f"imagenet_a/{WNIDS[0]}/1.png").touch()
    loader = datasets.get("imagenet_a")
    assert isinstance(loader, Published)
    dataset = replace(loader, card=replace(loader.card, classes=1))("", DatasetOptions(tmp_path))
    assert len(replace(SMALL, head="zeroshot").requests(dataset)) == 1
    with pytest.raises(DataError, match="imagenet1k: no folder"):
        SMALL.requests(dataset)
