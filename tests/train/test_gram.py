"""Gram anchoring against a written-out loop: the loss, its teacher, its crops and its schedule."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ssleval.errors import ConfigError
from ssleval.train.config import from_dict, read_config
from ssleval.train.gram import GramTeacher, gram_loss
from ssleval.train.learner import Learner
from ssleval.train.logfile import read_log
from ssleval.train.loop import train
from ssleval.train.schedules import Rates, rates
from ssleval.train.sections import GramConfig, ViewsConfig
from ssleval.train.state import read_state
from ssleval.train.views import MEAN, STD, Views, make_views
from tests.train.test_resume import cut
from tests.train.tiny_training import losses, pictures, tiny

GRAM = (
    "gram.weight=2", "gram.start_epochs=1", "gram.crop_size=32", "gram.copy_epochs=0.34",
    "loss.ibot=1", "model.drop_path=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def plain(data: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    return run(data, tmp_path_factory.mktemp("plain"))


def run(data: str, out: Path, *settings: str) -> list[tuple[int, float]]:
    train(tiny(*GRAM, *settings), data, out)
    return losses(read_log(out))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def written_out(student: Any, teacher: Any, chosen: Any, *, cosine: bool, negatives: bool) -> Any:
    """Return the loss, pair by pair, in float64."""
    crops: list[Any] = []
    for ours, theirs, counted in zip(student, teacher, chosen, strict=True):
        kept = [row for row, counts in enumerate(counted) if counts]
        pairs: list[Any] = []
        for one in kept:
            for other in kept:
                products: list[Any] = []
                for patches in (ours, theirs):
                    product = sum(a * b for a, b in zip(patches[one], patches[other], strict=True))
                    if cosine:
                        lengths = (patches[one] ** 2).sum() * (patches[other] ** 2).sum()
                        product = product / lengths.sqrt()
                    products.append(product if negatives or product > 0 else product * 0)
                pairs.append((products[0] - products[1]) ** 2)
        crops.append(sum(pairs) / len(pairs) if pairs else student.sum() * 0)
    return sum(crops) / len(crops)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("negatives", ["kept", "removed"])
def test_the_loss_is_the_mean_over_pairs_of_patches_of_a_crop(
    masked: bool, cosine: bool, negatives: Any
) -> None:
    # Small enough for products without normalisation to be of size 1.
    student, teacher = (drawn(3, 5, 4, seed=seed) * 0.7 for seed in (0, 1))
    chosen = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    every = chosen if masked else torch.ones_like(chosen)
    exact = student.double().requires_grad_()
    reference = written_out(exact, teacher.double(), every, cosine=cosine, negatives=negatives == "kept")
    student.requires_grad_()
    config = GramConfig(weight=1.0, normalised=cosine, negatives=negatives)
    loss = gram_loss(student, teacher, chosen if masked else None, config)
    torch.testing.assert_close(loss, reference.float(), rtol=1e-6, atol=1e-6)
    (expected,), (found,) = torch.autograd.grad(reference, exact), torch.autograd.grad(loss, student)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)


def test_a_step_charges_the_students_patches_with_those_of_larger_crops_of_the_gram_teacher() -> None:
    config = tiny(*GRAM)
    learner, larger = Learner(config, torch.device("cpu")), drawn(2, 4, 3, 32, 32, seed=3)
    views = Views(drawn(2, 4, 3, 16, 16), torch.empty(0, 4, 3, 1, 1), larger)
    masks = torch.rand(8, 16, generator=torch.Generator().manual_seed(1)) < 0.3
    assert learner.gram is not None
    student, teacher = learner.student.backbone, learner.gram.backbone
    with torch.no_grad():
        learner.gram.renew(learner.teacher)
        teacher.cls_token.add_(1)
        ours = student(views.globals.flatten(0, 1), masks)[:, 1:]
        theirs = teacher(larger.flatten(0, 1))[:, 1:]
        # 8 x 8 patches become 4 x 4: the weights of Keys' kernel half way between two (a = -0.75).
        weights = torch.tensor([-0.09375, 0.59375, 0.59375, -0.09375])
        grid = functional.pad(theirs.transpose(1, 2).unflatten(2, (8, 8)), (1, 1, 1, 1), mode="replicate")
        rows = torch.stack([(grid[:, :, 2 * i : 2 * i + 4] * weights[:, None]).sum(2) for i in range(4)], 2)
        small = torch.stack([(rows[..., 2 * i : 2 * i + 4] * weights).sum(3) for i in range(4)], 3)
    goal, every = small.flatten(2).transpose(1, 2).double(), torch.ones(8, 16)
    expected = written_out(ours.double(), goal, every, cosine=True, negatives=True)
    now = Rates(1e-2, 0.1, 0.9, 0.05, False, gram_weight=0.5)
    terms = learner.step(views, masks, now, watched=False)
    torch.testing.assert_close(terms["gram"], 0.5 * expected.float(), rtol=1e-5, atol=1e-6)


def test_the_teacher_is_a_copy_that_stays_until_it_is_renewed() -> None:
    learner = Learner(tiny(*GRAM), torch.device("cpu"))
    views = Views(drawn(2, 4, 3, 16, 16), torch.empty(0, 4, 3, 1, 1), drawn(2, 4, 3, 32, 32))
    masks = torch.ones(8, 16, dtype=torch.bool)

    def stepped(*, renew: bool) -> tuple[Tensor, Tensor]:
        now = Rates(1e-2, 0.1, 0.5, 0.05, False, gram_weight=1.0, renew_gram=renew)
        before = learner.teacher.backbone.get_parameter("pos_embed").clone()
        learner.step(views, masks, now, watched=False)
        assert learner.gram is not None
        return before, learner.gram.backbone.pos_embed.clone()

    first, copied = stepped(renew=True)
    assert torch.equal(first, copied)
    moved, kept = stepped(renew=False)
    assert not torch.equal(moved, first)
    assert torch.equal(kept, first)
    now, renewed = stepped(renew=True)
    assert torch.equal(now, renewed)
    assert not torch.equal(now, first)


def test_the_schedule_of_the_recipe_is_that_of_the_paper() -> None:
    config = read_config("dinov3_gram")
    steps = (999_999, 1_000_000, 1_000_500, 1_000_999, 1_199_999)
    found = [rates(config, step, 1000) for step in steps]
    # `linear_warmup_cosine_decay`: np.cos(np.linspace(0, np.pi, 1000)), whose ends are both among the values.
    wave = 1 - np.cos(np.linspace(0, np.pi, 1000))
    assert [rate.gram_weight for rate in found] == pytest.approx([0, 0, wave[500], 2, 2])
    # local_loss_weight_schedule: from 1 to 0.5 in the same epoch.
    assert [rate.local_weight for rate in found] == pytest.approx([1, 1, 1 - wave[500] / 4, 0.5, 0.5])
    # Warm-ups of these schedules leave out their end: np.linspace(start, peak, 100_000, endpoint=False).
    assert rates(config, 50_000, 1000).lr == pytest.approx(found[-1].lr / 2)
    assert rates(config, 50_000, 1000).teacher_temp == pytest.approx(0.055)
    # it_first_update 1,010,000, update_frequency 10,000 and max_updates 3 of the published file.
    renewed = [step for step in range(0, 1_200_000, 1000) if rates(config, step, 1000).renew_gram]
    assert renewed == [200_000, 1_010_000, 1_020_000, 1_030_000]
    assert config.gram_size_at(0) == 512
    assert found[-1].lr == pytest.approx(rates(config, 200_000, 1000).lr)


def test_undistorted_crops_show_what_the_global_crops_show() -> None:
    # Of one colour gradient, which resizing keeps.
    ramp = np.linspace(0, 255, 20 * 24 * 3).reshape(20, 24, 3)
    images = [np.roll(ramp, turn, axis=2).astype(np.uint8) for turn in range(3)]
    never = (0.0, 0.0, 0.0)
    config = ViewsConfig(
        16, local_size=8, local_crops=1, jitter=0.0, grayscale=0.0, blur=never, solarize=never
    )
    place: dict[str, Any] = {"seed": 1, "step": 2, "first": 0, "total": 3, "device": "cpu"}
    with_them = make_views(images, config, **place, undistorted=16)
    without = make_views(images, config, **place)
    assert without.undistorted is None
    assert torch.equal(with_them.globals, without.globals)
    assert torch.equal(with_them.locals, without.locals)
    # Where nothing is distorted, they are the same crops.
    torch.testing.assert_close(with_them.undistorted, without.globals)
    distorted = ViewsConfig(global_size=16, local_crops=0)
    larger = make_views(images, distorted, **place, undistorted=64).undistorted
    assert larger is not None
    small = functional.interpolate(larger.flatten(0, 1), 16, mode="bicubic", antialias=True)
    assert float((small - without.globals.flatten(0, 1)).abs().mean()) < 0.03
    colours = larger * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert -1e-6 <= float(colours.min()) < float(colours.max()) <= 1 + 1e-6


@pytest.mark.parametrize(
    "setting",
    [
        "gram.weight=1", "gram.start_epochs=1.34", "gram.warmup_epochs=1", "gram.copy_epochs=0.67",
        "gram.crop_size=16", "gram.normalised=false", "gram.tokens=masked", "gram.tokens=unmasked",
        "gram.negatives=removed", "gram.renewals=1 gram.renew_epochs=0.34",
        "gram.renewals=2 gram.renew_epochs=0.34", "gram.renewals=1 gram.renew_epochs=0.67",
    ],
)  # fmt: skip
def test_every_setting_changes_the_losses(
    setting: str, plain: list[tuple[int, float]], data: str, tmp_path: Path
) -> None:
    found = run(data, tmp_path, *setting.split())
    assert found != plain
    # Up to where the loss begins, a run is what it is without.
    assert found[:3] == plain[:3]


def test_before_it_begins_a_run_is_the_one_without(
    plain: list[tuple[int, float]], data: str, tmp_path: Path
) -> None:
    train(tiny("loss.ibot=1", "model.drop_path=0"), data, tmp_path)
    assert losses(read_log(tmp_path))[:3] == plain[:3]
    assert "gram" not in read_log(tmp_path)[-1]
    assert "gram" not in read_state(tmp_path / "checkpoints" / "last.pt")


@pytest.mark.parametrize("steps", [2, 5])
def test_a_resumed_run_has_the_same_gram_teacher(
    steps: int, plain: list[tuple[int, float]], data: str, tmp_path: Path
) -> None:
    cut(data, tmp_path, steps, *GRAM, "run.save_steps=1")
    assert train(tiny(*GRAM), data, tmp_path, resume=True).finished
    assert losses(read_log(tmp_path)) == plain


def test_the_teacher_of_another_training_is_read_once(data: str, tmp_path: Path) -> None:
    train(tiny("views.global_size=24", "optim.lr=0.1", "run.epochs=1"), data, tmp_path / "other")
    file = tmp_path / "other" / "checkpoints" / "last.pt"
    settings = (f"gram.teacher={file}", "gram.copy_epochs=0", "gram.start_epochs=0")
    gram = GramTeacher(tiny(*GRAM, *settings), resumed=False)
    theirs = read_state(file)["teacher"]["backbone.cls_token"]
    assert torch.equal(gram.backbone.cls_token, theirs)
    whole = run(data, tmp_path / "whole", *settings)
    assert all("gram" in line for line in read_log(tmp_path / "whole") if "loss" in line)
    cut(data, tmp_path / "cut", 4, *GRAM, *settings)
    file.unlink()
    assert train(tiny(*GRAM, *settings), data, tmp_path / "cut", resume=True).finished
    assert losses(read_log(tmp_path / "cut")) == whole


def test_micro_batches_add_up(plain: list[tuple[int, float]], data: str, tmp_path: Path) -> None:
    found = run(data, tmp_path, "run.accumulate=2")
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in plain], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["gram.start_epochs=2"], "must end within the run's 2"),
        (["gram.warmup_epochs=1.5"], "must end within the run's 2"),
        (["gram.copy_epochs=1.5"], "copy_epochs is 1.5, after gram.start_epochs, 1"),
        (["gram.start_epochs=0", "gram.copy_epochs=0"], "its teacher untrained"),
        (["gram.teacher=a.pt"], "leave it or gram.teacher out"),
        (["gram.renewals=1"], "both or neither"),
        (["gram.weight=0"], "gram.weight is 0; leave the other settings of gram out"),
        (["gram.tokens=masked", "loss.ibot=0"], "need loss.ibot"),
        (["gram.crop_size=30"], "--set gram.crop_size=32"),
        (
            ["model.arch=timm:resnet18", "loss.ibot=0"],
            "gram.weight is 2.0, which timm:resnet18 does not have",
        ),
    ],
)
def test_what_cannot_be_is_refused(settings: list[str], words: str) -> None:
    # What other sections refuse of a convnet comes first there.
    off = ["model.dim=0", "model.depth=0", "model.heads=0"] if "timm" in settings[0] else []
    with pytest.raises(ConfigError, match=words):
        tiny(*GRAM, *off, *settings)


def test_an_objective_without_a_teacher_has_none_for_gram() -> None:
    with pytest.raises(ConfigError, match=r"needs the teacher of loss\.objective=distillation"):
        from_dict({"loss": {"objective": "simclr"}, "gram": {"weight": 1.0}})


def test_a_gram_teacher_of_another_architecture_is_refused(data: str, tmp_path: Path) -> None:
    train(tiny("model.dim=8", "run.epochs=1"), data, tmp_path)
    name = f"gram.teacher={tmp_path}/checkpoints/last.pt"
    with pytest.raises(ConfigError, match=r"gram\.teacher=.* is of another architecture; --set model\.dim=8"):
        GramTeacher(tiny(*GRAM, name, "gram.copy_epochs=0"), resumed=False)


def test_the_teachers_crops_grow_with_the_students() -> None:
    phase = ("views.high_resolution_size=24", "run.high_resolution_epochs=1")
    assert [tiny(*GRAM, *phase).gram_size_at(epoch) for epoch in (0, 1)] == [32, 48]
    assert tiny(*GRAM, "gram.crop_size=0").gram_size_at(1) == 16
    assert math.isclose(rates(tiny(*GRAM, "gram.warmup_epochs=1"), 4, 3).gram_weight, 2 * 0.5)
