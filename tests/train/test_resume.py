"""What a resumed run may change, what it goes on from, and images that are broken or gone."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssleval.core import DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, DataError
from ssleval.train.images import Images
from ssleval.train.learner import Learner
from ssleval.train.logfile import collapse_limit, read_log
from ssleval.train.loop import train
from ssleval.train.state import changes, read_state
from ssleval.train.watch import CollapseWatch
from tests.train.tiny_training import losses, pictures, tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """The losses of 6 steps, 2 epochs."""
    out = tmp_path_factory.mktemp("whole")
    train(tiny(), data, out)
    return losses(read_log(out))


def cut(data: str, out: Path, steps: int, *settings: str, **others: Any) -> None:
    """Train until the process is killed in the step after ``steps``."""
    step, done = Learner.step, list[int]()

    def killed(self: Learner, *args: Any, **kwargs: Any) -> Any:
        done.append(1)
        if len(done) > steps:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(*settings), data, out, **others)


@pytest.mark.parametrize("setting", ["run.save_steps=2", "run.save_minutes=1e-9"])
def test_checkpoints_within_an_epoch_are_gone_on_from_bit_for_bit(
    setting: str, data: str, tmp_path: Path, whole: list[tuple[int, float]]
) -> None:
    cut(data, tmp_path, 5, setting)
    assert read_state(tmp_path / "checkpoints" / "last.pt")["step"] == (4 if "steps" in setting else 5)
    before = (tmp_path / "log.jsonl").stat().st_ino
    assert train(tiny(), data, tmp_path, resume=True).finished
    assert losses(read_log(tmp_path)) == whole
    # Nothing was logged after the checkpoint: the log is appended to.
    assert (tmp_path / "log.jsonl").stat().st_ino == before


@pytest.mark.parametrize(("before", "now"), [("fp16", "fp32"), ("fp32", "fp16")])
def test_learning_rate_and_precision_may_change_and_that_is_recorded(
    before: str, now: str, data: str, tmp_path: Path
) -> None:
    cut(data, tmp_path, 3, f"run.precision={before}")
    notes: list[str] = []
    config = tiny("optim.lr=1e-4", f"run.precision={now}")
    assert train(config, data, tmp_path, resume=True, note=notes.append).finished
    told = {"optim.lr": [5e-4, 1e-4], "run.precision": [before, now]}
    lines = read_log(tmp_path)
    assert [line for line in lines if "resumed" in line] == [{"step": 3, "epoch": 1, "resumed": told}]
    assert len(losses(lines)) == 6
    assert any(
        line.startswith("resumed at step 3 with optim.lr 0.0005 -> 0.0001, run.prec") for line in notes
    )
    assert json.loads((tmp_path / "config.json").read_text())["run"]["precision"] == now
    assert read_state(tmp_path / "checkpoints" / "last.pt")["config"]["optim"]["lr"] == 1e-4


def test_a_run_of_an_older_version_goes_on_as_it_began() -> None:
    stored = tiny("run.precision=bf16").to_dict()
    del stored["run"]["residual"], stored["loss"]["teacher_temp_by"], stored["optim"]["freeze_last_layer_by"]
    old = ("run.residual=computed", "loss.teacher_temp_by=step")
    assert changes(stored, tiny("run.precision=bf16", *old), Path("last.pt")) == {}
    assert changes(stored, tiny("run.precision=bf16", old[1]), Path("last.pt")) == {
        "run.residual": ["computed", "fp32"]
    }
    stored["run"]["precision"] = "fp32"
    assert changes(stored, tiny(old[1]), Path("last.pt")) == {}
    with pytest.raises(
        ConfigError, match=r"^last\.pt: made with loss\.teacher_temp_by=step, now epoch; resume"
    ):
        changes(stored, tiny(), Path("last.pt"))


def test_centres_of_an_older_version_are_those_of_its_heads(
    data: str, tmp_path: Path, whole: list[tuple[int, float]]
) -> None:
    cut(data, tmp_path, 3)
    path = tmp_path / "checkpoints" / "last.pt"
    state = read_state(path)
    (center,) = state["centers"]
    # One tensor of class tokens and of patches, though nothing of patches was learnt.
    torch.save({**state, "centers": torch.stack((center, torch.full_like(center, 7.0)))}, path)
    assert train(tiny(), data, tmp_path, resume=True).finished
    assert losses(read_log(tmp_path)) == whole


def test_another_number_of_processes_is_recorded(data: str, tmp_path: Path) -> None:
    cut(data, tmp_path, 3)
    path = tmp_path / "checkpoints" / "last.pt"
    torch.save({**read_state(path), "processes": 4}, path)
    train(tiny(), data, tmp_path, resume=True)
    assert [line["resumed"] for line in read_log(tmp_path) if "resumed" in line] == [{"processes": [4, 1]}]


def images(folder: str, splits: Sequence[str] = ("train",), **others: Any) -> Images:
    return Images(open_dataset(folder, DatasetOptions()), splits, 1.0, **others)


def batch(of: Images, rows: Sequence[int]) -> list[np.ndarray]:
    return next(of.batches(iter([np.array(rows)])))


def test_all_other_images_keep_their_number_when_some_are_gone(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    before = images(folder)
    files = sorted((tmp_path / "train").glob("*/*.png"))
    for index in (0, 5, 6, 11):
        files[index].unlink()
    now = images(folder)
    assert now.stand_for(before.ids()) == 4
    assert len(now) == 12
    stands = [1, 1, 2, 3, 4, 7, 7, 7, 8, 9, 10, 1]
    for mine, theirs in zip(
        batch(now, range(12)), batch(before_read(folder, stands, now), stands), strict=True
    ):
        assert np.array_equal(mine, theirs)
    with pytest.raises(ConfigError, match="other images than the run began with"):
        now.stand_for(list(reversed(before.ids())))
    with pytest.raises(ConfigError, match="other images than the run began with"):
        now.stand_for(before.ids()[:2])


def before_read(folder: str, stands: Sequence[int], now: Images) -> Any:
    """Return the present images under the numbers they had before any was gone."""
    plain, numbers = images(folder), dict(zip(sorted(set(stands)), range(len(now.ids())), strict=True))

    class _Before:
        def batches(self, orders: Any) -> Any:
            return plain.batches(np.array([numbers[int(row)] for row in order]) for order in orders)

    return _Before()


def test_a_run_goes_on_without_a_file_that_is_gone_but_not_with_other_files(tmp_path: Path) -> None:
    folder, out = pictures(tmp_path / "data"), tmp_path / "out"
    cut(folder, out, 3)
    files = sorted((tmp_path / "data" / "train").glob("*/*.png"))
    moved = files[3].rename(files[3].with_name("zz.png"))
    with pytest.raises(ConfigError, match="other images than the run began with"):
        train(tiny(), folder, out, resume=True)
    moved.unlink()
    cut(folder, out, 1, resume=True)
    # The next checkpoint is of the smaller set, and the numbers are still those of the larger.
    assert train(tiny(), folder, out, resume=True).finished
    lines = read_log(out)
    assert len(losses(lines)) == 6
    assert [line["resumed"] for line in lines if "resumed" in line] == [{"images": [12, 11]}]
    changed = sorted((tmp_path / "data" / "train").glob("*/*.png"))[0]
    changed.write_bytes(files[1].read_bytes() + b" ")
    with pytest.raises(ConfigError, match="in another order"):
        train(tiny(), folder, out, resume=True)


def test_a_broken_image_is_skipped_counted_and_logged_and_a_resumed_run_sees_the_same(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "data")
    path = sorted((tmp_path / "data" / "train").glob("*/*.png"))[4]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=path.name):
        train(tiny(), folder, tmp_path / "strict")
    notes: list[str] = []
    train(tiny(), folder, tmp_path / "whole", skip_corrupt=True, note=notes.append)
    (line,) = [line for line in read_log(tmp_path / "whole") if "skipped" in line]
    assert [path.name in name for name in line["skipped"]] == [True]
    assert any("skipped 1 of 12 images" in note for note in notes)
    cut(folder, tmp_path / "cut", 4, skip_corrupt=True)
    train(tiny(), folder, tmp_path / "cut", skip_corrupt=True, resume=True)
    assert losses(read_log(tmp_path / "cut")) == losses(read_log(tmp_path / "whole"))
    broken, sound = images(folder, skip_corrupt=True), images(folder, skip_corrupt=True)
    assert np.array_equal(batch(broken, [4])[0], batch(sound, [5])[0])
    for other in (tmp_path / "data" / "train").glob("*/*.png"):
        other.write_bytes(b"")
    with pytest.raises(DataError, match="none of the images can be decoded"):
        images(folder, skip_corrupt=True)


def test_the_model_is_readable_as_the_umask_says(data: str, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        train(tiny("run.epochs=1"), data, tmp_path)
    finally:
        os.umask(before)
    for name in ("teacher.safetensors", "config.json", "log.jsonl", "checkpoints/last.pt"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640, name


def test_collapse_is_judged_by_the_number_of_prototypes_and_by_the_start_and_said_once() -> None:
    def indicators(information: float) -> dict[str, float]:
        return {"information": information, "teacher_entropy": 0.1}

    least = 0.003 * np.log(1000)
    assert collapse_limit(1000) == pytest.approx(least)
    fallen = CollapseWatch(1000)
    # 1 % of the start is above 0.3 % of the most that 1,000 prototypes can tell.
    values = (5.0, 0.06, 0.04, 0.01)
    assert [bool(fallen.warning(indicators(value), 0)) for value in values] == [False, False, True, False]
    plateau = CollapseWatch(1000)
    assert not plateau.warning(indicators(1e-5), 0)
    assert not plateau.warning({"loss": 1.0}, 1)
    assert "at first 1e-05" in plateau.warning(indicators(0.9 * least), 1)
    assert not plateau.warning(indicators(0.0), 2)
    assert not CollapseWatch(1000).warning(indicators(1.1 * least), 1)


def test_without_a_terminal_a_line_a_minute_tells_the_losses(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(np.arange(0, 1e6, 31.0))
    monkeypatch.setattr("time.monotonic", lambda: float(next(seconds)))
    train(tiny("run.log_every=1", "loss.koleo=0.1"), data, tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "ssleval: training" in line]
    assert lines
    line = read_log(tmp_path)[-1]
    terms = ("loss", "dino", "koleo", "information", "gradient_norm")
    told = ", ".join(f"{name.replace('_', ' ')} {line[name]:.4g}" for name in terms)
    assert any("images/s" in text and " left; loss " in text for text in lines)
    assert line["gradient_norm"] > 0
    assert all(told.split()[0] in text for text in lines)


def test_the_norm_of_the_gradients_is_that_before_clipping(data: str, tmp_path: Path) -> None:
    learned: list[float] = []
    update = Learner._update

    def kept(self: Learner, *args: Any, **kwargs: Any) -> Any:
        gradients = [weight.grad for weight in self.student.parameters() if weight.grad is not None]
        learned.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
        return update(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "_update", kept)
        train(tiny("run.log_every=1", "optim.clip=0.01", "run.epochs=1"), data, tmp_path)
    found = [line["gradient_norm"] for line in read_log(tmp_path)]
    assert found == pytest.approx(learned, rel=1e-5)
    assert min(found) > 0.01
