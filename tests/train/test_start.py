"""Trainings that start from weights that are there."""

from pathlib import Path

import pytest
import torch

from ssleval.backbones.vit import resize_positions
from ssleval.backbones.zoo import find_card, load
from ssleval.errors import ConfigError, UnknownNameError, WeightsError
from ssleval.train.learner import Learner
from ssleval.train.loop import train
from ssleval.train.state import Checkpoints, read_state
from tests.train.tiny_training import pictures, tiny, without_teacher

CPU = torch.device("cpu")
MASKED = ("views.local_crops=0", "mae.decoder_dim=12", "mae.decoder_depth=1", "mae.decoder_heads=3")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(tiny("run.epochs=1", "optim.lr=0.1"), data, out)
    return out


@pytest.mark.parametrize("file", ["teacher.safetensors", "checkpoints/last.pt"])
def test_student_and_teacher_start_as_the_model_named(run: Path, file: str) -> None:
    name = run / file
    learner = Learner(tiny(f"model.init={name}", "run.seed=5", "loss.ibot=1"), CPU)
    untrained = Learner(tiny("run.seed=5", "loss.ibot=1"), CPU)
    wanted = read_state(run / "checkpoints" / "last.pt")["teacher"]
    for network in (learner.student, learner.teacher):
        state = network.state_dict()
        for key, value in wanted.items():
            expected = value if key.startswith("backbone.") else untrained.student.state_dict()[key]
            assert torch.equal(state[key], expected), key
        assert not state["backbone.mask_token"].any()


def test_heads_are_kept_where_that_is_asked_for(run: Path) -> None:
    name = run / "checkpoints" / "last.pt"
    learner = Learner(tiny(f"model.init={name}", "model.init_heads=true"), CPU)
    for key, value in read_state(name)["teacher"].items():
        assert torch.equal(learner.student.state_dict()[key], value)
    with pytest.raises(ConfigError, match="no heads of these shapes"):
        Learner(tiny(f"model.init={name}", "model.init_heads=true", "head.prototypes=16"), CPU)
    with pytest.raises(ConfigError, match=r"FILE\.pt"):
        tiny("model.init=dino_scenes", "model.init_heads=true")


def test_positions_are_resized_to_the_grid_of_the_crops() -> None:
    packaged = load("dino_scenes").get_submodule("vit")
    settings = (
        "model.dim=192", "model.depth=2", "model.heads=3", "model.patch_size=16", "model.stem=residual",
        "views.global_size=96", "views.local_size=32", "model.init=dino_scenes",
    )  # fmt: skip
    learner = Learner(tiny(*settings), CPU)
    positions = packaged.get_parameter("pos_embed")
    assert positions.shape[1] == 1 + 4**2
    found = learner.student.backbone.get_parameter("pos_embed")
    assert torch.equal(found, resize_positions(positions, 6, 6, "dino"))


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        (
            ("model.init=dino_scenes",),
            ConfigError,
            "--set model.dim=192 --set model.heads=3 --set model.stem=res",
        ),
        (("model.init=pixels",), ConfigError, "no transformer of this program"),
        (("model.init=dino_scene",), UnknownNameError, "dino_scenes"),
        (("model.init=absent.pt",), WeightsError, "no such checkpoint"),
    ],
)
def test_what_no_student_can_start_from_is_refused(
    settings: tuple[str, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Learner(tiny(*settings), CPU)


def test_positions_that_mae_fixes_start_others_and_learnt_ones_need_a_setting(tmp_path: Path) -> None:
    masked = Learner(without_teacher("mae", *MASKED), CPU)
    path = tmp_path / "last.pt"
    Checkpoints(tmp_path).save({"teacher": masked.teacher.state_dict(), "config": masked.config.to_dict()})
    started = Learner(tiny(f"model.init={path}"), CPU)
    positions = masked.teacher.backbone.get_parameter("pos_embed")
    assert torch.equal(started.student.backbone.get_parameter("pos_embed"), positions)
    Checkpoints(tmp_path).save({"teacher": started.teacher.state_dict(), "config": started.config.to_dict()})
    with pytest.raises(ConfigError, match=r"--set mae\.fixed_positions=false"):
        Learner(without_teacher("mae", *MASKED, f"model.init={path}"), CPU)
    Learner(without_teacher("mae", *MASKED, f"model.init={path}", "mae.fixed_positions=false"), CPU)


def test_a_run_resumes_without_the_file_it_started_from_and_its_model_says_where_it_is_from(
    run: Path, data: str, tmp_path: Path
) -> None:
    start = tmp_path / "start.pt"
    start.write_bytes((run / "checkpoints" / "last.pt").read_bytes())
    config = tiny(f"model.init={start}", "run.epochs=1")
    train(config, data, tmp_path / "out")
    start.unlink()
    assert train(config, data, tmp_path / "out", resume=True).finished
    assert (
        find_card(str(tmp_path / "out" / "teacher.safetensors")).source == f"trained by ssleval, from {start}"
    )
