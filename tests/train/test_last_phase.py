"""The last epochs at a higher resolution."""

from pathlib import Path
from typing import Any

import pytest

from ssleval.backbones.zoo import find_card
from ssleval.errors import ConfigError
from ssleval.train.learner import Learner
from ssleval.train.logfile import read_log
from ssleval.train.loop import train
from ssleval.train.views import Views
from tests.train.tiny_training import losses, pictures, tiny

PHASE = ("views.high_resolution_size=24", "run.high_resolution_epochs=1", "loss.ibot=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("pictures"))


def test_the_last_epochs_see_larger_crops_and_a_run_stopped_among_them_goes_on_alike(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, killed_at, seen = Learner.step, 7, list[tuple[int, ...]]()

    def watched(self: Learner, views: Views, *args: Any, **kwargs: Any) -> Any:
        if len(seen) == killed_at:
            raise KeyboardInterrupt
        seen.append((views.globals.shape[-1], views.locals.shape[-1], args[0].shape[1]))
        return step(self, views, *args, **kwargs)

    monkeypatch.setattr(Learner, "step", watched)
    assert train(tiny(*PHASE), data, tmp_path / "whole").finished
    assert seen == [(16, 8, 16)] * 3 + [(24, 12, 36)] * 3
    card = find_card(str(tmp_path / "whole" / "teacher.safetensors"))
    assert (card.image_size, card.resize) == (24, 27)
    # Stopped in the second step of the phase; the last checkpoint is from the boundary.
    seen, killed_at = [], 4
    with pytest.raises(KeyboardInterrupt):
        train(tiny(*PHASE), data, tmp_path / "parts")
    assert find_card(str(tmp_path / "parts" / "teacher.safetensors")).image_size == 16
    seen, killed_at = [], 7
    assert train(tiny(*PHASE), data, tmp_path / "parts", resume=True).finished
    assert seen == [(24, 12, 36)] * 3
    whole, parts = (losses(read_log(tmp_path / name)) for name in ("whole", "parts"))
    assert parts == whole
    monkeypatch.undo()
    train(tiny("loss.ibot=1"), data, tmp_path / "plain")
    plain = losses(read_log(tmp_path / "plain"))
    assert plain[:3] == whole[:3]
    assert plain[3:] != whole[3:]


def test_local_crops_grow_in_proportion_to_whole_patches() -> None:
    config = tiny(
        "views.global_size=224", "views.local_size=96", "model.patch_size=16", "run.epochs=10",
        "views.high_resolution_size=512", "run.high_resolution_epochs=2",
    )  # fmt: skip
    assert config.views_at(7) == config.views
    assert (config.views_at(8).global_size, config.views_at(9).local_size) == (512, 224)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["views.high_resolution_size=24"], "give both or neither"),
        (["run.high_resolution_epochs=1"], "give both or neither"),
        (["views.high_resolution_size=24", "run.high_resolution_epochs=2"], "must be fewer"),
        (["views.high_resolution_size=16", "run.high_resolution_epochs=1"], "must exceed views.global_size"),
        (["views.high_resolution_size=25", "run.high_resolution_epochs=1"], "no multiple of 4"),
    ],
)
def test_a_phase_that_cannot_be_is_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(*settings).vit()
