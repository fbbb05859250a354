"""Every setting has a type and bounds, and refuses what lies outside them in one line."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from msgspec import Meta

from ssleval.errors import ConfigError, UnknownNameError
from ssleval.train.config import TrainConfig, read_config, recipes
from ssleval.train.schedules import rates
from tests.train.tiny_training import tiny

HINTS = {
    f"{section.name}.{name}": hint
    for section in fields(TrainConfig)
    for name, hint in get_type_hints(type(getattr(TrainConfig(), section.name)), include_extras=True).items()
}


def parts(hint: Any) -> tuple[Any, dict[str, Any]]:
    """Return the bare type of an annotation, and its bounds."""
    if get_origin(hint) is not Annotated:
        return hint, {}
    bare, *marks = get_args(hint)
    bounds = ((name, getattr(mark, name)) for mark in marks if isinstance(mark, Meta) for name in BEYOND)
    return bare, {name: bound for name, bound in bounds if bound is not None}


BEYOND = {"ge": -1, "gt": 0, "le": 1, "lt": 0, "min_length": -1, "max_length": 1}
"""What to add to a bound to be outside."""


def outside(hint: Any) -> Iterator[str]:
    """Yield texts that are of another type than the annotation says, or just outside its bounds."""
    bare, bounds = parts(hint)
    if get_origin(bare) is tuple:
        entry = parts(get_args(bare)[0])[0]
        yield from (",".join(["0.5"] * (bound + BEYOND[name])) for name, bound in bounds.items())
        length = bounds["min_length"]
        assert entry is float
        yield from (",".join([text] * length) for text in outside(get_args(bare)[0]))
    elif get_origin(bare) is Literal or bare is bool:
        yield "nonsense"
    elif bare in {int, float}:
        yield from ("word", "nan", "inf", "1,2", "1.5" if bare is int else "")
        yield from (str(bound + BEYOND[name]) for name, bound in bounds.items())


@pytest.mark.parametrize("name", HINTS)
def test_values_outside_the_bounds_of_a_setting_are_refused(name: str) -> None:
    texts = list(outside(HINTS[name]))
    assert texts or HINTS[name] is str
    for text in texts:
        with pytest.raises(ConfigError, match=rf"^{name}={text}: (expected|known:|did you mean)") as raised:
            read_config("dino", [f"{name}={text}"])
        assert "\n" not in str(raised.value)


def test_every_number_has_a_lower_bound() -> None:
    for name, hint in HINTS.items():
        bare, bounds = parts(hint)
        if get_origin(bare) is tuple:
            bare, bounds = parts(get_args(bare)[0])
        assert bare not in {int, float} or {"ge", "gt"} & set(bounds), name


def test_every_whole_number_that_takes_memory_has_an_upper_bound() -> None:
    for name, hint in HINTS.items():
        bare, bounds = parts(hint)
        if bare is int and name.partition(".")[0] in {"model", "views", "head", "loss"}:
            assert "le" in bounds, name


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optim.lr=-1", "optim.lr=-1: expected a number > 0"),
        ("optim.lr=nan", "optim.lr=nan: expected a number > 0"),
        ("loss.mask_probability=3", "loss.mask_probability=3: expected a number <= 1"),
        ("views.flip=-1", "views.flip=-1: expected a number >= 0"),
        ("loss.center_momentum=2", "loss.center_momentum=2: expected a number <= 1"),
        ("head.layers=0", "head.layers=0: expected a whole number >= 1"),
        ("views.local_crops=-1", "views.local_crops=-1: expected a whole number >= 0"),
        ("head.prototypes=0", "head.prototypes=0: expected a whole number >= 1"),
        ("model.drop_path=1", "model.drop_path=1: expected a number < 1"),
        ("loss.teacher_temp=0", "loss.teacher_temp=0: expected a number > 0"),
        ("views.global_scale=0.5", "views.global_scale=0.5: expected a list of length >= 2"),
        ("loss.centering=sinkhom", "loss.centering=sinkhom: did you mean sinkhorn?"),
        ("run.epochs=x", "run.epochs=x: expected a whole number"),
        ("model.dime=3", "model has no setting 'dime'; did you mean dim?"),
        (
            "modle.dim=3",
            "train has no section 'modle'; known: model, views, head, loss, optim, run, gram, simclr, "
            "vicreg, lejepa, mae",
        ),
    ],
)
def test_a_refusal_is_one_line_with_the_name_as_people_spell_it(setting: str, words: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError)) as raised:
        read_config("dino", [setting])
    assert str(raised.value) == words


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["views.global_size=15"], r"no multiple of 4, .*; --set views\.global_size=16"),
        (["views.local_size=2"], r"no multiple of 4, .*; --set views\.local_size=4"),
        (["loss.dino=0"], "nothing would be learnt"),
        (["model.heads=3"], r"model\.dim=16: expected a multiple of model\.heads, 3"),
        (["views.ratio=2,1"], "first must not exceed the second"),
        (["optim.momentum=0.9", "optim.momentum_end=0.5"], r"above optim\.momentum_end, 0\.5"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(*settings).vit()


@pytest.mark.parametrize(
    ("settings", "lengths", "said"),
    [
        (("run.epochs=30",), (10, 30, 1), []),
        (
            ("run.epochs=5", "optim.freeze_last_layer_epochs=6"),
            (0.5, 0.5, 0.5),
            [
                "optim.warmup_epochs is 10, more than the run's 5: set to 0.5",
                "loss.warmup_teacher_temp_epochs is 30, more than the run's 5: set to 0.5",
                "optim.freeze_last_layer_epochs is 6, more than the run's 5: set to 0.5",
            ],
        ),
        (("run.epochs=10", "loss.warmup_teacher_temp_epochs=10"), (10, 10, 1), []),
    ],
)
def test_a_warmup_longer_than_the_run_becomes_its_first_tenth_and_is_said(
    settings: tuple[str, ...], lengths: tuple[float, ...], said: list[str]
) -> None:
    config, lines = read_config("dino", settings).fitted()
    optim = config.optim
    assert lengths == (
        optim.warmup_epochs, config.loss.warmup_teacher_temp_epochs, optim.freeze_last_layer_epochs,
    )  # fmt: skip
    assert lines == said
    # The peak is reached, which a warm-up that ends after the run would never do.
    assert max(rates(config, step, 20).lr for step in range(20 * config.run.epochs)) == pytest.approx(
        optim.lr * config.run.batch_size / optim.lr_batch
    )


def test_settings_made_in_python_are_checked_alike() -> None:
    config = read_config("dino")
    with pytest.raises(ConfigError, match=r"^optim\.lr=-1\.0: "):
        replace(config, optim=replace(config.optim, lr=-1.0))


@pytest.mark.parametrize("name", recipes())
def test_recipes_lie_within_the_bounds(name: str) -> None:
    assert json.loads(json.dumps(read_config(name).to_dict()))


def test_recipes_are_known_by_name_or_read_from_a_file(tmp_path: Path) -> None:
    assert "dino" in recipes()
    with pytest.raises(UnknownNameError, match="did you mean dino"):
        read_config("dinno")
    path = tmp_path / "own.yaml"
    path.write_text("optim: {lr: 1e-3, warmup_epochs: 2}\nviews: {blur: [1, 0.1, 0]}\n")
    config = read_config(str(path), ["optim.min_lr=0"])
    assert (config.optim.lr, config.optim.warmup_epochs, config.optim.min_lr) == (1e-3, 2.0, 0.0)
    assert config.views.blur == (1.0, 0.1, 0.0)
    path.write_text("optim: {lr: fast}\n")
    with pytest.raises(ConfigError, match=r"^optim\.lr=fast: expected a number"):
        read_config(str(path))
    path.write_text("- optim\n")
    with pytest.raises(ConfigError, match="a recipe is a mapping of sections"):
        read_config(str(path))
