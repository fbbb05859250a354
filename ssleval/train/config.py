"""A training run: its sections of settings, what is refused, and recipes (YAML) of what differs."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from ssleval.backbones.vit import VitConfig, sized
from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, UnknownNameError
from ssleval.run.settings import parse_settings, read_value
from ssleval.train.sections import (
    HeadConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ViewsConfig,
)

CONVNET = "timm:"
"""What names of convolutional networks begin with."""

_RECIPES = Path(__file__).parent / "recipes"

_OF_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "model": {
        "dim": 0, "depth": 0, "heads": 0, "stem": "patch", "drop_path": 0.0, "drop_path_rule": "linear",
        "layerscale": 0.0, "registers": 0,
    },
    "optim": {"layer_decay": 1.0, "patch_embed_lr": 1.0},
}  # fmt: skip
"""What a convolutional network does not have, and the value that says so."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        """Refuse what no run could honour, before any image is read."""
        self._check_values()
        self._check_last_phase()
        if not self.is_transformer:
            self._check_convnet()
        if self.loss.distill and self.model.drop_path > 0:
            raise ConfigError(
                f"train: model.drop_path is {self.model.drop_path}; distilling from a frozen teacher has no "
                "stochastic depth; --set model.drop_path=0"
            )

    @property
    def is_transformer(self) -> bool:
        """Whether the network is a `Vit`, else a convolutional network of timm."""
        return not self.model.arch.startswith(CONVNET)

    def _check_values(self) -> None:
        views, loss, run = self.views, self.loss, self.run
        for name, values in (
            ("views.global_scale", views.global_scale),
            ("views.local_scale", views.local_scale),
            ("views.blur_sigma", views.blur_sigma),
            ("loss.mask_ratio", loss.mask_ratio),
            ("views.ratio", views.ratio),
        ):
            if len(values) != 2:
                raise ConfigError(f"train: {name} takes two numbers, as in 0.4,1")
            if not 0 < values[0] <= values[1]:
                raise ConfigError(f"train: {name} is {values[0]},{values[1]}; expected 0 < first <= second")
        if len(views.blur) != 3 or len(views.solarize) != 3:
            raise ConfigError(
                "train: views.blur and views.solarize take three probabilities, as in 1,0.1,0.5"
            )
        if loss.dino <= 0 and loss.ibot <= 0:
            raise ConfigError("train: loss.dino and loss.ibot are both 0; nothing would be learnt")
        if min(loss.student_temp, loss.teacher_temp, loss.warmup_teacher_temp) <= 0:
            raise ConfigError("train: temperatures must be positive")
        if min(run.epochs, run.batch_size, run.accumulate, run.log_every) < 1:
            raise ConfigError("train: run.epochs, batch_size, accumulate and log_every must be at least 1")
        if not 0 <= self.optim.momentum <= self.optim.momentum_end <= 1:
            raise ConfigError(f"train: optim.momentum is {self.optim.momentum}; it must be in [0, 1]")

    def _check_last_phase(self) -> None:
        size, epochs = self.views.high_resolution_size, self.run.high_resolution_epochs
        if bool(size) != bool(epochs):
            raise ConfigError(
                f"train: views.high_resolution_size is {size} and run.high_resolution_epochs {epochs}; give "
                "both or neither"
            )
        if epochs and not 0 < epochs < self.run.epochs:
            raise ConfigError(
                f"train: run.high_resolution_epochs is {epochs} of {self.run.epochs}; it must be fewer"
            )
        if size and size <= self.views.global_size:
            raise ConfigError(
                f"train: views.high_resolution_size is {size}, no more than global_size, "
                f"{self.views.global_size}"
            )

    def _check_convnet(self) -> None:
        if self.loss.ibot > 0:
            raise ConfigError(
                f"train: {self.model.arch} has no patches to mask; loss.ibot needs a transformer"
            )
        for section in ("model", "optim"):
            ours, plain = getattr(self, section), _OF_TRANSFORMERS[section]
            for name, value in plain.items():
                if getattr(ours, name) != value:
                    raise ConfigError(
                        f"train: {section}.{name} is {getattr(ours, name)}, which {self.model.arch} does not "
                        f"have; --set {section}.{name}={value}"
                    )

    def check_share(self, world: int) -> None:
        """Refuse a batch that ``world`` processes, and the parts of each, cannot share evenly.

        Raises:
            ConfigError: says what to change.
        """
        batch, parts = self.run.batch_size, self.run.accumulate
        if batch % world:
            raise ConfigError(f"train: a batch of {batch} cannot be shared by {world} processes")
        share = batch // world
        if share % parts:
            raise ConfigError(
                f"train: {share} images of a process make no {parts} equal parts; choose a run.accumulate "
                "that divides them"
            )
        if self.loss.koleo > 0 and share // parts < 2:
            raise ConfigError(
                "train: KoLeo needs a neighbour, and parts are of one image; lower run.accumulate, raise "
                "run.batch_size, or --set loss.koleo=0"
            )

    def views_at(self, epoch: int) -> ViewsConfig:
        """Return the crops of an epoch: larger ones in the last phase, where there is one."""
        views, run = self.views, self.run
        if epoch < run.epochs - run.high_resolution_epochs:
            return views
        step = self.model.patch_size if self.is_transformer else 1
        local = views.local_size * views.high_resolution_size / views.global_size
        return replace(
            views, global_size=views.high_resolution_size, local_size=max(1, round(local / step)) * step
        )

    def vit(self) -> VitConfig:
        """Return the student's transformer.

        Raises:
            UnknownNameError: no such size.
            ConfigError: crop sizes are no multiple of the patch size.
        """
        model, views = self.model, self.views
        width, depth, heads = sized(model.arch)
        for name in ("global_size", "local_size", "high_resolution_size"):
            if (size := getattr(views, name)) % model.patch_size:
                raise ConfigError(
                    f"train: {name.partition('_')[0]} crops of {size} pixels are no multiple of patch "
                    f"{model.patch_size}; --set views.{name}={size // model.patch_size * model.patch_size}"
                )
        return VitConfig(
            model.dim or width,
            model.depth or depth,
            model.heads or heads,
            patch_size=model.patch_size,
            image_size=views.global_size,
            stem=model.stem,
            layerscale=model.layerscale or None,
            num_registers=model.registers,
            mask_token=self.loss.ibot > 0 and not self.loss.distill,
            drop_path=model.drop_path,
            drop_path_rule=model.drop_path_rule,
            position_embedding=model.positions,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain values."""
        return asdict(self)


def recipes() -> tuple[str, ...]:
    """Return the names of the packaged recipes."""
    return tuple(sorted(path.stem for path in _RECIPES.glob("*.yaml")))


def read_config(recipe: str = "dino", settings: Iterable[str] = ()) -> TrainConfig:
    """Return a recipe with ``SECTION.FIELD=VALUE`` texts in place of its values, later ones winning.

    Args:
        recipe: a packaged name, or a YAML file of sections and fields.
        settings: texts such as ``model.dim=192``.

    Raises:
        UnknownNameError: no such recipe, section or field; the message offers the nearest.
        ConfigError: a value its field cannot take.
    """
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else _RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise UnknownNameError(f"no recipe {recipe!r}; {suggestion(recipe, recipes())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
        raise ConfigError(f"{path}: a recipe is a mapping of sections ({_sections()}) to fields")
    return from_dict(parse_settings(settings), from_dict(content))


def from_dict(content: Mapping[str, Mapping[str, Any]], base: TrainConfig | None = None) -> TrainConfig:
    """Return ``base`` (the defaults) with the values of ``content``; texts are read as their field's type."""
    base = base or TrainConfig()
    changed: dict[str, Any] = {}
    for section, stated in content.items():
        if section not in {one.name for one in fields(TrainConfig)}:
            raise UnknownNameError(f"train has no section {section!r}; {_sections()}")
        part = getattr(base, section)
        hints = get_type_hints(type(part))
        for name in stated:
            if name not in hints:
                raise UnknownNameError(f"train: {section} has no {name!r}; {suggestion(name, hints)}")
        values = {name: _plain(f"{section}.{name}", value, hints[name]) for name, value in stated.items()}
        changed[section] = replace(part, **values)
    return replace(base, **changed)


def _plain(name: str, value: Any, hint: Any) -> Any:
    """Read YAML's values by the same rules as those of the command line."""
    text = ",".join(str(part) for part in value) if isinstance(value, (list, tuple)) else str(value)
    return read_value(name, text, hint)


def _sections() -> str:
    return "known: " + ", ".join(one.name for one in fields(TrainConfig))
