"""Fine-tuning as a task: what each setting does, resumed and shared runs, and the model left as it was."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssleval.backbones.loaders.native import NativeBackbone
from ssleval.backbones.vit import Vit, VitConfig
from ssleval.backbones.wrapped import wrap
from ssleval.backbones.zoo import load
from ssleval.core import BackboneCard, Context, Dataset, DatasetCard, RandomView, Samples, Split
from ssleval.core.backbone import Backbone
from ssleval.core.geometry import apply
from ssleval.errors import ConfigError, DataError, DivergedError, NotApplicableError
from ssleval.features import FeatureSource, Live, Shard, fitting
from ssleval.features.geometry import random_view
from ssleval.heads.finetune.augment import RandAugment, drawn
from ssleval.heads.finetune.recipes import Recipe, iterations
from ssleval.metrics.classification import classified
from ssleval.run.jobs import Job
from ssleval.run.measure import Plan
from ssleval.run.rehearse import rehearse
from ssleval.run.settings import build_task
from ssleval.tasks import finetune
from ssleval.tasks.finetune import Finetune
from tests.features.rank_threads import in_ranks
from tests.tasks.feature_tables import evaluated

QUICK = Finetune(
    resize=16, crop=16, iterations=6, batch_size=8, part=4, deviation=0.02, learning_rates=(0.05,)
)
COUNTS = {"train": 24, "test": 30}


def image_of(name: str, row: int) -> Image.Image:
    """Noise, brighter in the colour of the class."""
    random = np.random.default_rng([len(name), row])
    pixels = random.integers(0, 100, (18, 20, 3), dtype=np.uint8)
    pixels[..., row % 3] += 80
    return Image.fromarray(pixels)


def opened(name: str) -> Split:
    rows = np.arange(COUNTS[name])
    return Split([f"{name}/{row}" for row in rows], lambda row: image_of(name, row), rows % 3, name)


DATA = Dataset(DatasetCard("drawn", class_names=("a", "b", "c"), lengths=COUNTS), opened)
Measure = Callable[..., Samples]


def backbone() -> Backbone:
    torch.manual_seed(0)
    vit = Vit(VitConfig(8, 2, 2, patch_size=8, image_size=16))
    return NativeBackbone(BackboneCard("tiny", "native", "tiny", 8, 8, image_size=16), vit)


@pytest.fixture(scope="module", autouse=True)
def whole_scores() -> Iterator[None]:
    """Keep the logits beside the columns: a few steps change few classes."""

    def columns(scores: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        return {**classified(scores, targets), "logits": scores}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "classified", columns)
        yield


@pytest.fixture
def run(tmp_path: Path) -> Measure:
    def measured(
        task: Finetune = QUICK, dataset: Dataset = DATA, model: Backbone | None = None, **more: Any
    ) -> Samples:
        usual: dict[str, Any] = {"cache": tmp_path, "progress": False, "device": "cpu", "num_workers": 0}
        context = Context(**{**usual, **more})
        return evaluated(task, FeatureSource(model or backbone(), context), dataset, context)

    return measured


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    context = Context("cpu", cache=tmp_path_factory.mktemp("plain"), progress=False, num_workers=0)
    return logits(evaluated(QUICK, FeatureSource(backbone(), context), DATA, context))


def logits(samples: Samples) -> np.ndarray:
    return samples["logits"]


CHANGES: dict[str, Any] = {
    "learning_rates": (0.06,), "iterations": 7, "batch_size": 6, "part": 2, "layer_decay": 0.5,
    "weight_decay": 0.9, "drop_path": 0.5, "mixup": 0.8, "cutmix": 1.0, "smoothing": 0.4, "randaugment": 9,
    "erasing": 1.0, "smallest_crop": 0.1, "warmup": 0.5, "min_rate": 0.04, "ema": 0.9, "clip": 0.01,
    "deviation": 0.5, "readout": "mean", "recipe": "deit", "resize": 20, "crop": 8,
}  # fmt: skip


def test_every_setting_of_a_recipe_is_tried() -> None:
    assert {one.name for one in fields(Recipe)} <= CHANGES.keys()


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_setting_changes_the_answer(run: Measure, plain: np.ndarray, name: str) -> None:
    task = replace(QUICK, **{name: CHANGES[name]})
    # Parts of a batch add up to it, but for what is drawn or normalised among them.
    if name == "part":
        assert np.allclose(logits(run(task)), plain, atol=1e-4)
        task, plain = replace(task, mixup=0.8), logits(run(replace(QUICK, mixup=0.8)))
    assert not np.allclose(logits(run(task)), plain, atol=1e-5)


def test_the_seed_decides_and_workers_do_not(run: Measure, plain: np.ndarray) -> None:
    assert np.array_equal(logits(run()), plain)
    assert np.array_equal(logits(run(batch_size=5)), plain)
    assert not np.array_equal(logits(run(seed=1)), plain)


def test_classes_are_learnt_and_labels_without_meaning_are_not(run: Measure) -> None:
    task = replace(QUICK, iterations=60, layer_decay=1.0, smallest_crop=0.5)
    assert run(task)["correct"].mean() > 0.9

    def shuffled(name: str) -> Split:
        split = opened(name)
        return replace(split, targets=np.random.default_rng(0).permutation(np.asarray(split.targets)))

    assert run(task, Dataset(DATA.card, shuffled))["correct"].mean() < 0.7


def test_the_first_step_is_that_of_adamw_on_the_mean_loss(run: Measure) -> None:
    """Without augmentation, the first step by hand: torch's own modules and optimiser."""
    task = replace(
        QUICK, iterations=1, warmup=0.0, clip=0.0, smoothing=0.0, layer_decay=1.0, weight_decay=0.0
    )
    task = replace(task, batch_size=24, part=6, smallest_crop=1 - 1e-9)
    found, model = logits(run(task)), backbone()
    assert isinstance(model, NativeBackbone)
    head = torch.nn.Linear(8, 3)
    torch.nn.init.trunc_normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(head.bias)
    view = RandomView(0, 16, scale=(1 - 1e-9, 1.0))
    shown = np.stack([random_view(view, image_of("train", row), f"train/{row}") for row in range(24)])
    scored = np.stack([apply(task.geometry, image_of("test", row)) for row in range(30)])  # pyright: ignore[reportArgumentType]

    def forward(pixels: np.ndarray) -> torch.Tensor:
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - model.mean) / model.std
        return head(model.vit(images)[:, 0])

    weights = [*model.vit.requires_grad_(True).parameters(), *head.parameters()]
    adamw = torch.optim.AdamW(weights, lr=0.05 * 24 / 256, weight_decay=0.0)
    torch.nn.functional.cross_entropy(forward(shown), torch.arange(24) % 3).backward()
    adamw.step()
    assert np.allclose(found, forward(scored).detach().numpy(), atol=1e-4)


def test_an_interrupted_run_goes_on_to_the_same_bits(
    run: Measure, plain: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "SECONDS_BETWEEN_FILES", -1.0)
    task = replace(QUICK, ema=0.5, mixup=0.8, randaugment=9, drop_path=0.3, erasing=0.5)
    whole = logits(run(task, cache=tmp_path / "other"))
    keep, seen = fitting._keep, list[int]()

    def stopped(path: Path, step: int, learner: Any) -> None:
        keep(path, step, learner)
        seen.append(step)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "_keep", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(task)
    (kept,) = (tmp_path / "finetune").iterdir()
    assert np.array_equal(logits(run(task)), whole)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert not kept.exists()


@pytest.mark.parametrize("rates", [(0.05,), (0.01, 0.05)])
def test_a_run_stopped_while_it_scores_trains_nothing_again(
    run: Measure, rates: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, scored, steps = replace(QUICK, learning_rates=rates), finetune.classified_by, list[int]()
    whole, update = logits(run(task, cache=tmp_path / "other")), finetune.Learner.update

    def stopped(live: Any, name: str, images: Any, network: Any) -> Any:
        if images.judged[0][0].fingerprint == "test":
            raise KeyboardInterrupt
        return scored(live, name, images, network)

    def counted(self: Any, total: torch.Tensor, step: int) -> None:
        steps.append(step)
        update(self, total, step)

    monkeypatch.setattr(finetune, "classified_by", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(task)
    monkeypatch.setattr(finetune, "classified_by", scored)
    monkeypatch.setattr(finetune.Learner, "update", counted)
    assert np.array_equal(logits(run(task)), whole)
    assert steps == []
    assert not [*(tmp_path / "finetune").iterdir()]


def test_a_file_cut_short_begins_anew(
    run: Measure, plain: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def keep(path: Path, missing_ok: bool = False) -> None:
        """Remove nothing."""

    monkeypatch.setattr(Path, "unlink", keep)
    run()
    (kept,) = (tmp_path / "finetune").iterdir()
    kept.write_bytes(kept.read_bytes()[:500])
    assert np.array_equal(logits(run()), plain)


def normalising() -> Backbone:
    """A model with batch norms."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 8, 8), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AvgPool2d(2)
    module = torch.nn.Sequential(*layers, torch.nn.Flatten())
    return wrap(module, patch_size=8, mean=0.5, std=0.5, image_size=16, pooling="given")


@pytest.mark.parametrize(("world", "make"), [(2, backbone), (3, backbone), (2, normalising)])
def test_processes_share_every_batch(run: Measure, world: int, make: Callable[[], Backbone]) -> None:
    # Threads stand for processes, which have generators of their own.
    models, plain = [make() for _ in range(world)], logits(run(model=make()))

    def measured(shard: Shard) -> Samples:
        return run(model=models[shard.rank])

    for found in in_ranks(world, measured):
        assert isinstance(found, Samples), found
        assert np.allclose(logits(found), plain, atol=1e-3)


def test_of_several_rates_that_of_the_held_out_images_is_taken(run: Measure) -> None:
    task = replace(QUICK, iterations=40, layer_decay=1.0, learning_rates=(1e-9, 0.05), held_out=0.3)
    samples = run(task)
    assert set(samples["rate"]) == {0.05}
    with pytest.raises(ConfigError, match=r"held_out=0.3 has no effect with one of learning_rates; leave it"):
        replace(task, learning_rates=(0.05,)).resolved(DATA)
    alone = run(replace(task, learning_rates=(0.05,), held_out=0.1))
    assert np.array_equal(logits(samples), logits(alone))


def test_it_says_how_sure_it_is(run: Measure) -> None:
    samples = run()
    chances = torch.from_numpy(logits(samples)).double().softmax(dim=1).numpy()
    rows = np.arange(len(chances))
    assert samples["confidence"] == pytest.approx(chances.max(axis=1), rel=1e-5)
    assert samples["nll"] == pytest.approx(-np.log(chances[rows, samples["label"]]), rel=1e-4)
    scores = {metric.name: metric.score(samples) for metric in replace(QUICK, metric="top1").metrics}
    assert list(scores) == ["top1", "mean_per_class", "ece", "adaptive_ece", "nll"]
    assert scores["nll"] == pytest.approx(samples["nll"].mean())


def test_the_model_is_left_as_it_was(run: Measure) -> None:
    model = backbone()
    before = model.weights_sha256
    run(replace(QUICK, drop_path=0.2), model=model)
    model.forget_hashes()
    assert model.weights_sha256 == before
    assert not any(isinstance(weight.grad, torch.Tensor) for weight in model.parameters())


def test_recipes_are_the_published_ones() -> None:
    """FINETUNE.md of facebookresearch/mae (ViT-B) and main.py of facebookresearch/deit."""
    big = replace(DATA, card=replace(DATA.card, lengths={"train": 1_281_167, "test": 50_000}))
    mae, deit = (Finetune(recipe=name).resolved(big) for name in ("mae", "deit"))
    assert (mae.iterations, deit.iterations) == (100 * 1251, 300 * 1251)
    assert mae.settings.step_rate(mae.learning_rates[0]) == pytest.approx(5e-4 * 1024 / 256)
    assert deit.settings.step_rate(deit.learning_rates[0]) == pytest.approx(5e-4 * 1024 / 512)
    for task in (mae, deit):
        assert (task.mixup, task.cutmix, task.smoothing, task.erasing, task.drop_path) == (
            0.8,
            1.0,
            0.1,
            0.25,
            0.1,
        )
        assert (task.randaugment, task.weight_decay, task.batch_size) == (9, 0.05, 1024)
        assert round(task.settings.warmup * task.iterations) == 5 * 1251
    assert (mae.layer_decay, mae.readout, mae.min_rate) == (0.65, "mean", 1e-6)
    assert (deit.layer_decay, deit.readout, deit.min_rate) == (1.0, "pooled", 1e-5)
    assert (mae.published_precision, Finetune().published_precision) == ("fp16", "fp32")


def test_small_sets_have_some_hundred_steps() -> None:
    assert [iterations("short", count, 64) for count in (10, 1_000, 10_000, 10**6)] == [500, 500, 3120, 5000]
    full = Finetune(weight_decay=0.5).resolved(DATA)
    assert full.resolved(DATA) == full
    assert (full.weight_decay, full.layer_decay, full.part) == (0.5, 0.75, 64)
    assert "recipe" not in {value for name, value in full.recorded().items() if name != "recipe"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("layer_decay", "0"), ("layer_decay", "1.1"), ("randaugment", "11"), ("mixup", "-1"), ("smoothing", "1"),
     ("ema", "1"), ("erasing", "1.5"), ("smallest_crop", "0"), ("warmup", "1"), ("deviation", "0"),
     ("drop_path", "1"), ("iterations", "-1"), ("learning_rates", "0"), ("readout", "gem"), ("clip", "nan")],
)  # fmt: skip
def test_settings_have_bounds(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"finetune.{name}"):
        build_task("finetune", {name: value})


def test_settings_are_read_from_texts() -> None:
    task = build_task(
        "finetune", {"layer_decay": "0.65", "mixup": "0.8", "ema": "recipe", "randaugment": "9"}
    )
    assert task == Finetune(layer_decay=0.65, mixup=0.8, randaugment=9)


@pytest.mark.parametrize("change", [{"part": 3}, {"batch_size": 9}])
def test_odd_parts_cannot_be_mixed_in_pairs(change: dict[str, int]) -> None:
    replace(QUICK, **change).resolved(DATA)
    with pytest.raises(ConfigError, match="mixup and cutmix need even"):
        replace(QUICK, mixup=0.8, **change).resolved(DATA)


def test_what_cannot_be_fine_tuned_is_refused_before_any_image(run: Measure) -> None:
    with pytest.raises(NotApplicableError, match="pixels has no weights"):
        run(model=load("pixels"))


def test_a_loss_that_is_no_number_ends_it(run: Measure) -> None:
    with pytest.raises(DivergedError, match=r"step \d+ is not finite; --set finetune.learning_rates"):
        run(replace(QUICK, learning_rates=(1e30,), clip=0.0))


def test_logits_that_are_no_numbers_end_it(run: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    # The loss of the last step is of the weights before it, and finite.
    with pytest.raises(DivergedError, match="logits are not finite at rate 1e"):
        run(replace(QUICK, iterations=1, warmup=0.0, learning_rates=(1e38,), layer_decay=1.0))


def test_a_rate_that_diverges_is_lost_and_the_others_go_on(run: Measure) -> None:
    task = replace(QUICK, learning_rates=(1e30, 0.05), held_out=0.3, clip=0.0)
    assert set(run(task)["rate"]) == {0.05}
    with pytest.raises(DivergedError, match=r"every rate diverges, from 1e\+29 to 1e\+30"):
        run(replace(task, learning_rates=(1e30, 1e29)))


def test_processes_without_a_part_of_the_batch_step_with_the_others(
    run: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, alone, said = [backbone() for _ in range(3)], logits(run(precision="fp16")), set[str]()

    def progress(self: Live, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        said.add(label)
        return nullcontext(lambda _: None)

    monkeypatch.setattr(Live, "progress", progress)

    def measured(shard: Shard) -> Samples:
        return run(model=models[shard.rank], precision="fp16")

    for found in in_ranks(3, measured):
        assert isinstance(found, Samples), found
        assert np.allclose(logits(found), alone, atol=0.02)
    assert "drawn, fine-tuning (1 of 3 processes idle: a batch has 2 parts)" in said


def test_an_image_that_cannot_be_decoded_is_named(run: Measure) -> None:
    def broken(name: str) -> Split:
        def image(row: int) -> Image.Image:
            if (name, row) == ("train", 7):
                raise DataError("train/7: cut off")
            return image_of(name, row)

        return replace(opened(name), image=image)

    with pytest.raises(DataError, match="train/7: cut off"):
        run(dataset=Dataset(DATA.card, broken))


def test_its_price_counts_steps_and_leaves_no_file(tmp_path: Path) -> None:
    task = replace(QUICK, iterations=40).resolved(DATA)
    source = FeatureSource(backbone(), Context("cpu", cache=tmp_path, progress=False, num_workers=0))
    cost = rehearse(Plan(Job("finetune", task, "drawn", DATA), task.requests(DATA), (), {}, ""), source)
    assert cost.images == pytest.approx(40 * 8 + COUNTS["test"], rel=0.35)
    assert not [*tmp_path.glob("finetune/*")]


def test_draws_are_those_of_their_name_and_leave_generators_alone() -> None:
    change = RandAugment(9, 16, (0.5, 0.5, 0.5), 0)
    pixels = np.asarray(image_of("train", 1).resize((16, 16)))
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.rand(()), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    changed = [change(pixels, str(name)) for name in range(8)]
    assert (torch.rand(()), np.random.rand()) == before
    assert all(np.array_equal(one, change(pixels, str(name))) for name, one in enumerate(changed))
    assert len({one.tobytes() for one in changed}) > 4
    with drawn("x", 1):
        first = torch.rand(())
    with drawn("x", 2):
        assert torch.rand(()) != first


def test_a_batch_moves_running_statistics_once_to_the_mean_of_its_parts(run: Measure) -> None:
    seen: list[Any] = []
    model, keep = normalising(), finetune.Learner

    class Kept(keep):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            seen.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "Learner", Kept)
        run(
            replace(QUICK, iterations=1, warmup=0.0, smallest_crop=1 - 1e-9, batch_size=24, part=6, ema=0.5),
            model=model,
        )
    view = RandomView(0, 16, scale=(1 - 1e-9, 1.0))
    shown = np.stack([random_view(view, image_of("train", row), f"train/{row}") for row in range(24)])
    # Which images are in a part is the order of the stream; the mean of means does not depend on it.
    images = (torch.from_numpy(shown).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    mean = model.module[0](images).mean((0, 2, 3))  # pyright: ignore[reportIndexIssue, reportCallIssue, reportUnknownVariableType, reportAttributeAccessIssue]
    assert torch.allclose(seen[0].statistics[0], 0.1 * mean, atol=1e-6)
    # The averaged weights begin as those of the first step.
    averaged = seen[0].tuned.get_buffer("backbone.module.1.running_mean")
    assert torch.allclose(averaged, 0.1 * mean, atol=1e-6)
