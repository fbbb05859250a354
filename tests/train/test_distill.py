"""Distillation from a frozen larger teacher, and backbones compiled."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssleval.backbones.weights.checkpoints import read_checkpoint
from ssleval.backbones.zoo import find_card
from ssleval.errors import ConfigError, WeightsError
from ssleval.train.learner import Learner
from ssleval.train.logfile import read_log
from ssleval.train.loop import train
from ssleval.train.networks import build_networks
from ssleval.train.schedules import Rates
from ssleval.train.state import read_state
from ssleval.train.views import Views
from tests.train.tiny_training import losses, pictures, tiny
from tests.train.training_processes import alone, start

LARGER = ("model.dim=32", "loss.ibot=1", "loss.shared_head=false", "run.epochs=1", "optim.lr=0.1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def larger(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("larger")
    train(tiny(*LARGER), data, out)
    return out / "checkpoints" / "last.pt"


def settings(larger: Path) -> tuple[str, ...]:
    return (f"loss.distill={larger}", "model.drop_path=0", "loss.ibot=1", "optim.momentum=0.5")


def crossed(target: Tensor, logits: Tensor) -> Tensor:
    return -(target * torch.log_softmax(logits, dim=-1)).sum(dim=-1).mean()


def test_the_loss_is_that_of_the_frozen_teachers_assignments_and_hides_nothing(larger: Path) -> None:
    config = tiny(*settings(larger))
    learner = Learner(config, torch.device("cpu"))
    state = read_state(larger)
    teacher, _ = build_networks(tiny(*LARGER))
    teacher.load_state_dict(state["teacher"])
    student, _ = build_networks(config)
    drawn = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens, theirs = student.backbone(drawn.flatten(0, 1)), teacher.eval().backbone(drawn.flatten(0, 1))
        assert teacher.patch_head is not None
        center, patch_center = state["centers"]
        wanted = ((teacher.head(theirs[:, 0]) - center) / 0.05).softmax(dim=-1).unflatten(0, (2, 4))
        given = student.head(tokens[:, 0]).unflatten(0, (2, 4)) / 0.1
        patches = ((teacher.patch_head(theirs[:, 1:].flatten(0, 1)) - patch_center) / 0.05).softmax(dim=-1)
        dino = (crossed(wanted[0], given[1]) + crossed(wanted[1], given[0])) / 2
        ibot = crossed(patches, student.head(tokens[:, 1:].flatten(0, 1)) / 0.1)
    rates = Rates(lr=1e-3, weight_decay=0.0, momentum=0.5, teacher_temp=0.05, freeze_last_layer=False)
    masks = torch.ones(8, 16, dtype=torch.bool)
    terms = learner.step(Views(drawn, drawn.new_empty(0, 4, 3, 1, 1)), masks, rates, watched=False)
    torch.testing.assert_close(terms["dino"], dino)
    torch.testing.assert_close(terms["ibot"], ibot)


def test_the_frozen_teacher_stays_and_the_students_average_becomes_the_model(
    larger: Path, data: str, tmp_path: Path
) -> None:
    learners: list[Learner] = []
    config, before = tiny(*settings(larger)), read_state(larger)["teacher"]
    with pytest.MonkeyPatch.context() as patch:
        made = Learner.__init__

        def kept(self: Learner, *args: Any, **kwargs: Any) -> None:
            made(self, *args, **kwargs)
            learners.append(self)

        patch.setattr(Learner, "__init__", kept)
        train(config, data, tmp_path / "run")
    (learner,) = learners
    assert all(torch.equal(value, before[name]) for name, value in learner.guide.state_dict().items())
    model = read_checkpoint(tmp_path / "run" / "teacher.safetensors")
    ours = learner.teacher.backbone.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in model.items())
    start_weights = build_networks(config)[1].backbone.state_dict()
    assert not torch.equal(ours["cls_token"], start_weights["cls_token"])
    assert not torch.equal(ours["cls_token"], learner.student.backbone.state_dict()["cls_token"])
    assert find_card(str(tmp_path / "run" / "teacher.safetensors")).embed_dim == 16
    train(tiny(*settings(larger)[1:]), data, tmp_path / "without")
    assert losses(read_log(tmp_path / "run")) != losses(read_log(tmp_path / "without"))


def test_another_frozen_teacher_does_not_go_on_with_the_run(larger: Path, data: str, tmp_path: Path) -> None:
    copy = tmp_path / "teacher.pt"
    copy.write_bytes(larger.read_bytes())
    config = tiny(*settings(copy))
    train(config, data, tmp_path / "run")
    state = read_state(copy)
    torch.save({**state, "step": 0}, copy)
    with pytest.raises(ConfigError, match="has changed since this run began"):
        train(config, data, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("head.prototypes=64", "32 prototypes, the student 64"),
        (
            "loss.shared_head=false head.patch_prototypes=8",
            "32 prototypes, the student 8; --set loss.shared_head=false --set head.patch_prototypes=32",
        ),
        ("model.patch_size=8", "patches of 4 pixels, the student of 8"),
        ("model.drop_path=0.1", "no stochastic depth"),
    ],
)
def test_a_student_that_cannot_follow_is_refused(setting: str, words: str, larger: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        Learner(tiny(*settings(larger), *setting.split()), torch.device("cpu"))


def test_a_teacher_without_a_head_for_patches_has_none_to_distil(data: str, tmp_path: Path) -> None:
    train(tiny("run.epochs=1"), data, tmp_path)
    with pytest.raises(ConfigError, match=r"without loss\.ibot"):
        Learner(tiny(*settings(tmp_path / "checkpoints" / "last.pt")), torch.device("cpu"))
    with pytest.raises(WeightsError, match="no such checkpoint"):
        Learner(tiny(*settings(tmp_path / "absent.pt")), torch.device("cpu"))


@pytest.mark.slow
def test_compiled_backbones_give_the_losses_of_plain_ones(data: str, tmp_path: Path) -> None:
    # One block: inductor compiles the kernels of every block anew, and each takes about a second.
    settings = ("model.drop_path=0", "loss.ibot=1", "model.depth=1")
    train(tiny(*settings), data, tmp_path / "plain")
    # In its own process, without the runtime type checks of the tests, which the compiler cannot trace.
    process = start(alone, (*settings, "run.compile=true"), data, tmp_path / "compiled")
    process.join()
    assert process.exitcode == 0
    plain, compiled = (losses(read_log(tmp_path / name)) for name in ("plain", "compiled"))
    assert [loss for _, loss in compiled] == pytest.approx([loss for _, loss in plain], rel=1e-4)
