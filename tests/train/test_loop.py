"""Whole trainings, tiny: resuming, stopping, collapsing, and a model at the end."""

import errno
import json
import pkgutil
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ssleval.backbones.weights.checkpoints import read_checkpoint
from ssleval.backbones.zoo import find_card, load, match_models
from ssleval.errors import ConfigError, DataError, DivergedError, UnknownNameError, WeightsError
from ssleval.run.measure import evaluate
from ssleval.train.export import export_checkpoint
from ssleval.train.learner import Learner
from ssleval.train.logfile import read_log
from ssleval.train.loop import train
from ssleval.train.state import only_training, read_state
from tests.train.tiny_training import losses, pictures, tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run: 6 steps, 2 epochs."""
    out = tmp_path_factory.mktemp("run")
    assert train(tiny(), data, out).finished
    return out


def test_every_step_is_recorded_with_its_rates(run: Path) -> None:
    lines = read_log(run)
    assert [line["step"] for line in lines] == list(range(6))
    assert all(line["loss"] > 0 for line in lines)
    assert {"lr", "weight_decay", "momentum", "teacher_temp", "dino", "images_per_second"} <= set(lines[0])
    assert {"teacher_entropy", "kl", "information", "feature_rank"} <= set(lines[1])
    assert lines[1]["kl"] + lines[1]["teacher_entropy"] == pytest.approx(lines[1]["dino"], rel=1e-4)


def test_images_without_labels_are_enough(run: Path, data: str, tmp_path: Path) -> None:
    # The same files in the same order.
    location = Path(data.partition(":")[2]) / "train"
    train(tiny(), f"images:{location}", tmp_path)
    assert losses(read_log(tmp_path)) == losses(read_log(run))


def test_a_wrong_name_of_the_set_to_evaluate_on_is_said_before_the_first_step(
    data: str, tmp_path: Path
) -> None:
    with pytest.raises(UnknownNameError, match="no dataset 'digitz'"):
        train(tiny("run.evaluate_every=1", "run.evaluate_on=digitz"), data, tmp_path)
    assert not (tmp_path / "log.jsonl").exists()


def test_the_same_seed_gives_the_same_losses_and_another_one_others(
    run: Path, data: str, tmp_path: Path
) -> None:
    train(tiny(), data, tmp_path / "again")
    assert losses(read_log(tmp_path / "again")) == losses(read_log(run))
    train(tiny("run.seed=1"), data, tmp_path / "other")
    assert losses(read_log(tmp_path / "other")) != losses(read_log(run))


def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not_been(
    run: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, killed_at = Learner.step, 4

    def killed(self: Learner, *args: object, **kwargs: object) -> object:
        nonlocal killed_at
        killed_at -= 1
        if killed_at < 0:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Learner, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), data, tmp_path)
    monkeypatch.undo()
    torch.rand(7)
    assert train(tiny(), data, tmp_path, resume=True).finished
    assert losses(read_log(tmp_path)) == losses(read_log(run))
    ours, theirs = (read_checkpoint(folder / "teacher.safetensors") for folder in (tmp_path, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_model_is_one_like_any_other(run: Path, data: str, tmp_path: Path) -> None:
    name = str(run / "teacher.safetensors")
    card = find_card(name)
    assert (card.embed_dim, card.patch_size, card.image_size, card.resize) == (16, 4, 16, 18)
    assert match_models(name) == [name]
    settings = {"knn": {"ks": (3,), "preprocessing": "card"}}
    (result,) = evaluate(name, "knn", dataset=data, settings=settings, results=tmp_path)
    assert result.model == name
    untrained = load(f"random:{name}")
    assert untrained.weights_sha256 != load(name).weights_sha256
    tokens = load(name)(torch.rand(1, 3, 16, 16), [-1]).blocks[0]
    assert tokens.patches.shape == (1, 4, 4, 16)


def test_a_file_that_does_not_say_what_it_is_is_refused(tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 20)
    for name, words in (("plain", "does not say"), ("broken", "damaged"), ("absent", "no such file")):
        with pytest.raises(WeightsError, match=words):
            find_card(str(tmp_path / f"{name}.safetensors"))


def test_an_exported_checkpoint_has_the_official_names(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "dino.pth"
    export_checkpoint(run / "checkpoints" / "last.pt", out)
    content = torch.load(out, weights_only=True)
    assert set(content) == {"student", "teacher", "epoch"}
    assert content["epoch"] == 2
    names = set(content["teacher"])
    assert {f"module.{name}" for name in names} == set(content["student"])
    assert {"backbone.cls_token", "head.mlp.4.weight", "head.last_layer.weight_v"} <= names
    ours = load(str(run / "teacher.safetensors"))
    teacher = {name: value for name, value in read_checkpoint(out).items() if not name.startswith("head.")}
    for name, value in teacher.items():
        assert torch.equal(ours.state_dict()[f"vit.{name}"], value)


def test_a_network_with_a_residual_stem_is_an_ordinary_model_but_has_no_official_layout(
    data: str, tmp_path: Path
) -> None:
    train(tiny("model.stem=residual", "run.epochs=1"), data, tmp_path / "run")
    tokens = load(str(tmp_path / "run" / "teacher.safetensors"))(torch.rand(1, 3, 16, 16), [-1]).blocks[0]
    assert tokens.patches.shape == (1, 4, 4, 16)
    with pytest.raises(WeightsError, match="no network with this stem"):
        export_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt", tmp_path / "dino.pth")


def test_heads_without_weight_norm_have_no_official_layout(data: str, tmp_path: Path) -> None:
    train(tiny("head.weight_norm=false", "run.epochs=1"), data, tmp_path)
    with pytest.raises(WeightsError, match="no head without weight norm"):
        export_checkpoint(tmp_path / "checkpoints" / "last.pt", tmp_path / "dino.pth")


def test_a_folder_that_holds_a_run_is_not_overwritten(run: Path, data: str) -> None:
    with pytest.raises(ConfigError, match="--resume"):
        train(tiny(), data, run)
    with pytest.raises(ConfigError, match=r"optim\.beta1=0\.9, now 0\.5"):
        train(tiny("optim.beta1=0.5"), data, run, resume=True)


def test_a_loss_that_is_no_number_stops_with_the_last_checkpoint_kept(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Learner.step

    def poisoned(self: Learner, *args: object, **kwargs: object) -> object:
        terms = step(self, *args, **kwargs)  # pyright: ignore[reportArgumentType]
        return terms if self.optimizer.param_groups[0]["lr"] < 6e-6 else {**terms, "dino": terms["dino"] / 0}

    monkeypatch.setattr(Learner, "step", poisoned)
    with pytest.raises(DivergedError, match="step 4: dino is inf"):
        train(tiny("optim.warmup_epochs=2"), data, tmp_path)
    assert torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["step"] == 3


def test_weights_that_are_no_numbers_stop_the_run_by_the_name_of_the_loss(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Learner.step

    def poisoned(self: Learner, *args: object, **kwargs: object) -> object:
        terms = step(self, *args, **kwargs)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            self.teacher.backbone.get_parameter("norm.weight").fill_(float("nan"))
        return terms

    monkeypatch.setattr(Learner, "step", poisoned)
    with pytest.raises(DivergedError, match="step 1: dino is nan"):
        train(tiny(), data, tmp_path)


def test_a_warmup_longer_than_the_run_is_scaled_said_and_recorded(data: str, tmp_path: Path) -> None:
    notes: list[str] = []
    train(tiny("run.epochs=1", "optim.warmup_epochs=3"), data, tmp_path, note=notes.append)
    assert "optim.warmup_epochs is 3, more than the run's 1: set to 0.1" in notes
    assert json.loads((tmp_path / "config.json").read_text())["optim"]["warmup_epochs"] == 0.1
    assert read_log(tmp_path)[0]["lr"] == pytest.approx(5e-4 * 4 / 256)


def test_parts_of_a_batch_add_up_to_it(run: Path, data: str, tmp_path: Path) -> None:
    settings = ("model.drop_path=0", "run.epochs=1")
    train(tiny(*settings), data, tmp_path / "whole")
    train(tiny(*settings, "run.accumulate=2"), data, tmp_path / "parts")
    whole, parts = (losses(read_log(tmp_path / name)) for name in ("whole", "parts"))
    assert [loss for _, loss in parts] == pytest.approx([loss for _, loss in whole], rel=1e-5)


def test_the_teacher_is_evaluated_and_the_best_is_kept(data: str, tmp_path: Path) -> None:
    train(tiny("run.evaluate_every=1", "run.checkpoint_every=2"), data, tmp_path)
    scores = [line["evaluation"] for line in read_log(tmp_path) if "evaluation" in line]
    assert len(scores) == 2
    first = next(iter(scores[0].values()))
    assert first["ci95"][0] <= first["value"] <= first["ci95"][1]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "last.pt", "best.pt", "epoch_0002.pt",
    }  # fmt: skip


KEEPING = ("run.evaluate_every=1", "run.checkpoint_every=1")


@pytest.fixture(scope="module")
def kept(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kept")
    train(tiny(*KEEPING), data, out)
    return out


@pytest.mark.parametrize(
    ("place", "at"),
    [
        ("loop.write_teacher", 2),
        ("state.Checkpoints.save", 2),
        ("state.Checkpoints.keep", 3),
        ("loop.evaluate_teacher", 2),
        ("log.Log.evaluation", 2),
        ("state.Checkpoints.keep", 2),
    ],
)
def test_a_run_killed_while_it_keeps_things_keeps_them_when_it_goes_on(
    place: str, at: int, kept: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"ssleval.train.{place}"
    original, calls = pkgutil.resolve_name(name), 0

    def killed(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(name, killed)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(*KEEPING), data, tmp_path)
    monkeypatch.undo()
    assert train(tiny(*KEEPING), data, tmp_path, resume=True).finished
    same_kept(tmp_path, kept)


def same_kept(ours: Path, theirs: Path) -> None:
    one, two = (
        [(line["step"], line.get("loss"), line.get("evaluation")) for line in read_log(folder)]
        for folder in (ours, theirs)
    )
    assert one == two
    names = sorted(path.name for path in (theirs / "checkpoints").iterdir())
    assert sorted(path.name for path in (ours / "checkpoints").iterdir()) == names
    for name in names:
        steps = [read_state(folder / "checkpoints" / name)["step"] for folder in (ours, theirs)]
        assert steps[0] == steps[1]
    models = [read_checkpoint(folder / "teacher.safetensors") for folder in (ours, theirs)]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_what_a_killed_run_wrote_by_half_is_removed(data: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    halves = [tmp_path / ".teacher.safetensors.71", tmp_path / "checkpoints" / ".last.pt.71"]
    for path in (*halves, tmp_path / ".notes.txt"):
        path.touch()
    train(tiny("run.epochs=1"), data, tmp_path)
    assert not any(path.exists() for path in halves)
    assert (tmp_path / ".notes.txt").exists()


def test_images_in_another_order_do_not_go_on_with_the_run(data: str, tmp_path: Path) -> None:
    config = tiny("run.epochs=1")
    train(config, data, tmp_path, splits=("train", "test"))
    with pytest.raises(ConfigError, match="in another order"):
        train(config, data, tmp_path, splits=("test", "train"), resume=True)
    with pytest.raises(ConfigError, match="split train is stated twice"):
        train(config, data, tmp_path / "twice", splits=("train", "train"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("run.accumulate=3",), "4 images per process do not make 3 equal micro-batches"),
        (("run.accumulate=4", "loss.koleo=0.1"), "each micro-batch has one"),
        (("run.batch_size=1", "loss.koleo=0.1"), "each micro-batch has one"),
    ],
)
def test_batches_that_cannot_be_parted_are_refused(
    settings: tuple[str, ...], words: str, data: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        train(tiny(*settings), data, tmp_path)


def test_too_few_images_for_a_batch_are_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="12 images make no batch of 64"):
        train(tiny("run.batch_size=64"), data, tmp_path)


@contextmanager
def small_disk(size: int) -> Generator[None]:
    """Let no file of this process grow beyond ``size`` bytes: the system answers as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "file"),
    [(10_000, "teacher.safetensors"), (60_000, "checkpoints/last.pt")],
)
def test_a_full_disk_is_one_line_with_the_file_and_costs_no_checkpoint(
    size: int, file: str, kept: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ssleval.train.log.Log.evaluation", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(*KEEPING), data, tmp_path)
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    with small_disk(size), pytest.raises(DataError, match=f"^{tmp_path / file}: .*was there before is kept"):
        train(tiny(*KEEPING), data, tmp_path, resume=True)
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before
    assert train(tiny(*KEEPING), data, tmp_path, resume=True).finished
    same_kept(tmp_path, kept)


@pytest.mark.parametrize(("size", "file"), [(1_000, "config.json"), (3_500, "log.jsonl")])
def test_a_full_disk_at_the_start_is_one_line_with_the_file(
    size: int, file: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorBoard writes from a thread of its own, which meets the full disk first.
    monkeypatch.setattr("ssleval.train.log.find_spec", {}.get)
    config = tiny("run.batch_size=1", "run.epochs=1", "run.log_every=1")
    with small_disk(size), pytest.raises(DataError, match=f"^{tmp_path / file}: .*File too large"):
        train(config, data, tmp_path)
    assert train(config, data, tmp_path).finished


def test_a_full_disk_leaves_an_exported_checkpoint_as_it_was(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "dino.pth"
    out.write_bytes(b"before")
    with small_disk(5_000), pytest.raises(DataError, match=r"dino\.pth: .*was there before is kept"):
        export_checkpoint(run / "checkpoints" / "last.pt", out)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("dino.pth", b"before")]


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_into_one_folder_is_refused_until_the_first_has_ended(
    resume: bool, data: str, tmp_path: Path
) -> None:
    with (
        only_training(tmp_path, print),
        pytest.raises(ConfigError, match="another training is writing into it"),
    ):
        train(tiny("run.epochs=1"), data, tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == [".training.lock"]
    # The file that is left says nothing: a process that was killed holds no lock.
    assert train(tiny("run.epochs=1"), data, tmp_path, resume=resume).finished


def test_a_file_system_without_locks_is_said_and_trained_on(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    said: list[str] = []
    assert train(tiny("run.epochs=1"), data, tmp_path, note=said.append).finished
    assert any("cannot be locked" in line for line in said)


def test_a_folder_is_one_folder_whatever_the_path_to_it(data: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run", target_is_directory=True)
    with only_training(tmp_path / "run", print), pytest.raises(ConfigError, match="another training"):
        train(tiny("run.epochs=1"), data, tmp_path / "link")


def test_a_training_that_failed_gives_its_folder_free(data: str, tmp_path: Path) -> None:
    with small_disk(1_000), pytest.raises(DataError, match=r"config\.json"):
        train(tiny("run.epochs=1"), data, tmp_path)
    with only_training(tmp_path, print):
        pass
