"""The settings of a training run, and recipes: YAML files of those that differ from the defaults."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from ssleval.backbones.vit import VitConfig, sized
from ssleval.core.registry import suggestion
from ssleval.core.settings import check, updated
from ssleval.core.yamlfile import read_yaml
from ssleval.errors import ConfigError, UnknownNameError
from ssleval.run.settings import parse_settings
from ssleval.train.objective_sections import LejepaConfig, MaeConfig, SimclrConfig, VicregConfig
from ssleval.train.sections import (
    GramConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ViewsConfig,
)

_TIMM = "timm:"
"""Prefix of the names of networks of timm."""
_RECIPES = Path(__file__).parent / "recipes"
_RANGES = ("views.global_scale", "views.local_scale", "views.ratio", "views.blur_sigma", "loss.mask_ratio")
"""Pairs of a lower and an upper bound."""
_WARMUPS = ("optim.warmup_epochs", "loss.warmup_teacher_temp_epochs", "optim.freeze_last_layer_epochs")
"""Epochs at the start in which something is not yet as in the rest of the run."""
_VIT_ONLY = {
    "model.dim": 0, "model.depth": 0, "model.heads": 0, "model.stem": "patch", "model.drop_path": 0.0,
    "model.drop_path_rule": "linear", "model.drop_path_draw": "image", "model.ffn": "mlp",
    "model.class_token_std": 0.02, "model.positions": "dino", "model.layerscale": 0.0, "model.registers": 0,
    "optim.layer_decay": 1.0, "optim.patch_embed_lr": 1.0, "gram.weight": 0.0, "run.pack": False,
    "run.gradient_checkpointing": False,
}  # fmt: skip
"""Settings that a network of timm does not have, and the value that turns each off."""
_DISTILLATION = "distillation"
_SHARED = ("loss.objective=", "loss.koleo=")
"""Settings of the section of self-distillation that every objective has."""
_OBJECTIVES = ("simclr", "vicreg", "lejepa", "mae")
"""Objectives with a section of their own; other than those, there is self-distillation."""
_VICREG = ("invariance", "variance", "covariance")
"""Weights of the terms of VICReg."""
_OF_BATCHES = ("simclr", "vicreg", "lejepa")
"""Objectives that compare the images of a batch."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """All settings of a training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    gram: GramConfig = field(default_factory=GramConfig)
    simclr: SimclrConfig = field(default_factory=SimclrConfig)
    vicreg: VicregConfig = field(default_factory=VicregConfig)
    lejepa: LejepaConfig = field(default_factory=LejepaConfig)
    mae: MaeConfig = field(default_factory=MaeConfig)

    def __post_init__(self) -> None:
        """Refuse invalid settings before any image is read."""
        for section in fields(self):
            check(getattr(self, section.name), section.name)
        self._check_objective()
        self._check_values()
        self._check_last_phase()
        if self.gram.weight > 0:
            self._check_gram()
        elif self.gram != GramConfig():
            raise ConfigError(
                "train: gram.weight is 0; leave the other settings of gram out, or state a weight"
            )
        if self.loss.objective == "mae":
            self._check_mae()
        if not self.is_transformer:
            self._check_timm()

    @property
    def is_transformer(self) -> bool:
        """Whether the network is a `Vit`; otherwise it is one of timm."""
        return not self.model.arch.startswith(_TIMM)

    @property
    def distils(self) -> bool:
        """Whether a teacher gives targets."""
        return self.loss.objective == _DISTILLATION

    @property
    def global_crops(self) -> int:
        """How many global crops of an image are seen."""
        return 1 if self.loss.objective == "mae" else 2

    def _check_objective(self) -> None:
        """Refuse settings of objectives other than the chosen one."""
        chosen = self.loss.objective
        owners = {name: name for name in _OBJECTIVES} | {"loss": _DISTILLATION, "head": _DISTILLATION}
        for section, owner in owners.items():
            ours = getattr(self, section)
            changed = asdict(ours).items() - asdict(type(ours)()).items()
            names = sorted(f"{section}.{name}={value}" for name, value in changed)
            if owner != chosen and (wrong := [name for name in names if not name.startswith(_SHARED)]):
                raise ConfigError(
                    f"train: {wrong[0]} is a setting of {owner}, and loss.objective is {chosen}; leave it "
                    f"out, or --set loss.objective={owner}"
                )

        if chosen == "vicreg" and not any(asdict(self.vicreg)[name] for name in _VICREG):
            raise ConfigError(f"train: vicreg.{', '.join(_VICREG)} are 0; nothing would be learnt")

    def _check_values(self) -> None:
        loss, optim, drop_path = self.loss, self.optim, self.model.drop_path
        for name in _RANGES:
            low, high = attrgetter(name)(self)
            if low > high:
                raise ConfigError(f"train: {name} is {low},{high}; the first must not exceed the second")
        if self.run.pack and self.run.compile:
            raise ConfigError("train: run.compile compiles passes of one size of crops; leave run.pack out")
        if loss.dino == 0 and loss.ibot == 0:
            raise ConfigError("train: loss.dino and loss.ibot are both 0; nothing would be learnt")
        if optim.momentum > optim.momentum_end:
            raise ConfigError(
                f"train: optim.momentum is {optim.momentum}, above optim.momentum_end, {optim.momentum_end}"
            )
        if not loss.ibot and (loss.teacher_patch_temp or loss.warmup_teacher_patch_temp):
            raise ConfigError("train: loss.teacher_patch_temp is of masked patches; it needs loss.ibot")
        if self.head.patch_bottleneck and (loss.shared_head or not loss.ibot):
            raise ConfigError(
                "train: head.patch_bottleneck is of a separate head; it needs loss.ibot and "
                "--set loss.shared_head=false"
            )
        if self.model.init_heads and not self.model.init.endswith(".pt"):
            raise ConfigError(
                "train: model.init_heads needs a model.init that is a checkpoint, FILE.pt, of a training"
            )
        if loss.distill and drop_path > 0:
            raise ConfigError(
                f"train: model.drop_path is {drop_path}; distilling from a frozen teacher has no "
                "stochastic depth; --set model.drop_path=0"
            )

    def _check_last_phase(self) -> None:
        size, epochs = self.views.high_resolution_size, self.run.high_resolution_epochs
        if bool(size) != bool(epochs):
            raise ConfigError(
                f"train: views.high_resolution_size is {size} and run.high_resolution_epochs {epochs}; give "
                "both or neither"
            )
        if epochs >= (most := self.run.epochs):
            raise ConfigError(f"train: run.high_resolution_epochs is {epochs} of {most}; it must be fewer")
        if size and size <= self.views.global_size:
            raise ConfigError(
                f"train: views.high_resolution_size is {size}; it must exceed views.global_size, "
                f"{self.views.global_size}"
            )

    def _check_gram(self) -> None:
        gram, epochs, patch = self.gram, self.run.epochs, self.model.patch_size
        starts, copied = gram.start_epochs, gram.copy_epochs or gram.start_epochs
        wrong = ""
        if not self.distils:
            wrong = f"weight is {gram.weight}, which needs the teacher of loss.objective={_DISTILLATION}"
        elif starts >= epochs or starts + gram.warmup_epochs > epochs:
            warmup = f"gram.warmup_epochs {gram.warmup_epochs:g}"
            wrong = f"start_epochs is {starts:g} and {warmup}; they must end within the run's {epochs}"
        elif copied > starts:
            wrong = f"copy_epochs is {copied:g}, after gram.start_epochs, {starts:g}"
        elif gram.teacher and gram.copy_epochs:
            wrong = "copy_epochs is of a teacher of this run; leave it or gram.teacher out"
        elif not (copied or gram.teacher or self.model.init):
            wrong = "start_epochs is 0, and its teacher untrained; begin later, or state gram.teacher"
        elif bool(gram.renewals) != bool(gram.renew_epochs):
            wrong = f"renewals is {gram.renewals}, gram.renew_epochs {gram.renew_epochs:g}; both or neither"
        elif gram.tokens != "all" and (not self.loss.ibot or self.loss.distill):
            wrong = f"tokens={gram.tokens} is of masks, which need loss.ibot and no loss.distill"
        elif gram.crop_size % patch:
            near = max(1, round(gram.crop_size / patch)) * patch
            wrong = f"crop_size is {gram.crop_size}, no multiple of {patch}; --set gram.crop_size={near}"
        if wrong:
            raise ConfigError(f"train: gram.{wrong}")

    def _check_mae(self) -> None:
        mae, crops = self.mae, self.views.local_crops
        patches = (self.views.global_size // self.model.patch_size) ** 2
        wrong = ""
        if not self.is_transformer:
            wrong = f"mae needs a transformer of ours, such as vit_small, not {self.model.arch}"
        elif crops:
            wrong = f"views.local_crops is {crops}, and mae sees one crop; --set views.local_crops=0"
        elif not 0 < (seen := int(patches * (1 - mae.mask_ratio))) < patches:
            wrong = f"mae.mask_ratio={mae.mask_ratio} leaves {seen} of {patches} patches visible"
        elif mae.decoder_dim % (heads := mae.decoder_heads) or mae.decoder_dim % 4:
            wrong = f"mae.decoder_dim is {mae.decoder_dim}; expected a multiple of 4 and of {heads} heads"
        if wrong:
            raise ConfigError(f"train: {wrong}")

    def _check_timm(self) -> None:
        arch = self.model.arch
        if self.loss.ibot > 0:
            raise ConfigError(f"train: loss.ibot needs a transformer of ours, such as vit_small, not {arch}")
        for name, off in _VIT_ONLY.items():
            if (value := attrgetter(name)(self)) != off:
                raise ConfigError(f"train: {name} is {value}, which {arch} does not have; --set {name}={off}")

    def fitted(self) -> tuple["TrainConfig", list[str]]:
        """Return settings whose warm-ups end within the run, and a line about each that did not.

        Recipes are published for hundreds of epochs. A warm-up longer than a whole run becomes its first
        tenth.
        """
        config, said, epochs = self, list[str](), self.run.epochs
        for name in _WARMUPS:
            if (stated := attrgetter(name)(self)) > epochs:
                section, field = name.split(".")
                config = from_dict({section: {field: epochs / 10}}, config)
                said.append(f"{name} is {stated:g}, more than the run's {epochs}: set to {epochs / 10:g}")
        return config, said

    def check_batch(self, world: int) -> None:
        """Refuse a batch that does not divide evenly into ``world`` processes and their micro-batches."""
        batch, accumulate = self.run.batch_size, self.run.accumulate
        if batch % world:
            raise ConfigError(f"train: a batch of {batch} does not divide evenly among {world} processes")
        share, objective = batch // world, self.loss.objective
        if objective in _OF_BATCHES and (accumulate > 1 or batch < 2):
            raise ConfigError(
                f"train: {objective} compares all images of a batch; it needs run.accumulate=1 and a "
                "run.batch_size of at least 2"
            )
        if share % accumulate:
            raise ConfigError(
                f"train: {share} images per process do not make {accumulate} equal micro-batches; choose a "
                "run.accumulate that divides them"
            )
        if self.loss.koleo > 0 and share == accumulate:
            raise ConfigError(
                "train: KoLeo compares images, and each micro-batch has one; lower run.accumulate, raise "
                "run.batch_size, or --set loss.koleo=0"
            )

    def check_sizes(self, stride: int, names: tuple[str, ...]) -> None:
        """Refuse crop sizes, given by field name, that are not multiples of the patch size or stride."""
        for name in names:
            if (size := getattr(self.views, name)) % stride:
                raise ConfigError(
                    f"train: views.{name} is {size}, no multiple of {stride}, the patch size or stride of "
                    f"{self.model.arch}; --set views.{name}={max(1, round(size / stride)) * stride}"
                )

    def views_at(self, epoch: int) -> ViewsConfig:
        """Return the crops of an epoch; they are larger in the high-resolution epochs at the end."""
        views, run = self.views, self.run
        if epoch < run.epochs - run.high_resolution_epochs:
            return views
        step = self.model.patch_size if self.is_transformer else 1
        local = views.local_size * views.high_resolution_size / views.global_size
        return replace(
            views, global_size=views.high_resolution_size, local_size=max(1, round(local / step)) * step
        )

    def gram_size_at(self, epoch: int) -> int:
        """Return the side of the Gram teacher's crops; they grow with the student's."""
        student, patch = self.views_at(epoch).global_size, self.model.patch_size
        size = (self.gram.crop_size or self.views.global_size) * student / self.views.global_size
        return max(1, round(size / patch)) * patch

    def vit(self) -> VitConfig:
        """Return the student's transformer; refuse crop sizes in broken patches."""
        model, views = self.model, self.views
        width, depth, heads = sized(model.arch)
        sizes = ("global_size", "high_resolution_size", *(["local_size"] if views.local_crops else []))
        self.check_sizes(model.patch_size, sizes)
        if (model.dim or width) % (model.heads or heads):
            stated = f"model.dim={model.dim or width}"
            raise ConfigError(f"train: {stated}: expected a multiple of model.heads, {model.heads or heads}")
        return VitConfig(
            model.dim or width,
            model.depth or depth,
            model.heads or heads,
            patch_size=model.patch_size,
            image_size=views.global_size,
            stem=model.stem,
            ffn=model.ffn,
            layerscale=model.layerscale or None,
            num_registers=model.registers,
            mask_token=self.loss.ibot > 0 and not self.loss.distill,
            drop_path=model.drop_path,
            drop_path_rule=model.drop_path_rule,
            drop_path_draw=model.drop_path_draw,
            class_token_std=model.class_token_std,
            residual=self.run.residual,
            position_embedding=model.positions,
            fixed_positions=self.loss.objective == "mae" and self.mae.fixed_positions,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain values, without the sections of objectives that are not chosen."""
        unused = set(_OBJECTIVES) - {self.loss.objective}
        return {name: section for name, section in asdict(self).items() if name not in unused}

    def settings(self) -> dict[str, Any]:
        """Return the same by ``SECTION.FIELD``."""
        sections = self.to_dict().items()
        return {f"{name}.{field}": value for name, fields in sections for field, value in fields.items()}


def recipes() -> tuple[str, ...]:
    """Return the names of the packaged recipes."""
    return tuple(sorted(path.stem for path in _RECIPES.glob("*.yaml")))


def read_config(recipe: str = "dino", settings: Iterable[str] = ()) -> TrainConfig:
    """Return a recipe, with values replaced by texts such as ``model.dim=192``; later ones win.

    ``recipe`` is a packaged name, or a YAML file of sections and fields.

    Raises:
        UnknownNameError: there is no such recipe, section or field; the message offers the nearest.
        ConfigError: a field cannot take its value.
    """
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else _RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        raise UnknownNameError(f"no recipe {recipe!r}; {suggestion(recipe, recipes())}")
    content = read_yaml(path) or {}
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
        raise ConfigError(f"{path}: a recipe is a mapping of sections ({_known_sections()}) to fields")
    config = from_dict(parse_settings(settings), from_dict(content))
    # Not in the class: checkpoints that say so can be read.
    if config.run.pack and not config.views.local_crops:
        raise ConfigError("train: run.pack joins crops of two sizes, here are no local ones; leave it out")
    return config


def from_dict(content: Mapping[str, Mapping[str, Any]], base: TrainConfig | None = None) -> TrainConfig:
    """Return ``base`` (the defaults) with the values of ``content``; texts are read by their field's type."""
    base = base or TrainConfig()
    changed: dict[str, Any] = {}
    known = {section.name for section in fields(TrainConfig)}
    for section, stated in content.items():
        if section not in known:
            raise UnknownNameError(f"train has no section {section!r}; {_known_sections()}")
        changed[section] = updated(getattr(base, section), stated, section)
    return replace(base, **changed)


def _known_sections() -> str:
    return "known: " + ", ".join(section.name for section in fields(TrainConfig))
