"""The settings of a training run, and recipes: YAML files of those that differ from the defaults."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias

from ssleval.backbones.vit import VitConfig, sized
from ssleval.core.registry import suggestion
from ssleval.core.settings import check, updated
from ssleval.core.yamlfile import read_yaml
from ssleval.errors import ConfigError, UnknownNameError
from ssleval.run.settings import parse_settings
from ssleval.train import sections
from ssleval.train.masking import visible_patches
from ssleval.train.objective_sections import LejepaConfig, MaeConfig, SimclrConfig, VicregConfig

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
_OURS = "a transformer of ours, such as vit_small"
_Rule: TypeAlias = tuple[object, str]
"""What is true of settings that do not go together, and the message that says so."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """All settings of a training run."""

    model: sections.ModelConfig = field(default_factory=sections.ModelConfig)
    views: sections.ViewsConfig = field(default_factory=sections.ViewsConfig)
    head: sections.HeadConfig = field(default_factory=sections.HeadConfig)
    loss: sections.LossConfig = field(default_factory=sections.LossConfig)
    optim: sections.OptimConfig = field(default_factory=sections.OptimConfig)
    run: sections.RunConfig = field(default_factory=sections.RunConfig)
    gram: sections.GramConfig = field(default_factory=sections.GramConfig)
    simclr: SimclrConfig = field(default_factory=SimclrConfig)
    vicreg: VicregConfig = field(default_factory=VicregConfig)
    lejepa: LejepaConfig = field(default_factory=LejepaConfig)
    mae: MaeConfig = field(default_factory=MaeConfig)

    def __post_init__(self) -> None:
        """Refuse invalid settings before any image is read."""
        for section in fields(self):
            check(getattr(self, section.name), section.name)
        _refuse(self._rules_of_objectives())
        _refuse(self._rules_of_values())
        _refuse(self._rules_of_the_last_phase())
        _refuse(self._rules_of_local_crops())
        _refuse(self._rules_of_gram())
        _refuse(self._rules_of_mae())
        _refuse(self._rules_of_timm())

    @property
    def is_transformer(self) -> bool:
        """Whether the network is a `Vit`; otherwise it is one of timm."""
        return not self.model.arch.startswith(_TIMM)

    @property
    def distils(self) -> bool:
        """Whether a teacher gives targets."""
        return self.loss.objective == _DISTILLATION

    @property
    def has_patch_head(self) -> bool:
        """Whether patches have a head of their own."""
        return self.loss.ibot > 0 and not self.loss.shared_head

    @property
    def heads(self) -> tuple[sections.HeadConfig, ...]:
        """The head of class tokens, and that of patches if they enter the loss; they may share one."""
        if not self.distils:
            return ()
        of_patches = self.head.of_patches if self.has_patch_head else self.head
        return (self.head, of_patches) if self.loss.ibot else (self.head,)

    @property
    def global_crops(self) -> int:
        """How many global crops of an image are seen."""
        return 1 if self.loss.objective == "mae" else 2

    def _rules_of_objectives(self) -> Iterator[_Rule]:
        chosen = self.loss.objective
        owners = {name: name for name in _OBJECTIVES} | {"loss": _DISTILLATION, "head": _DISTILLATION}
        for section, owner in owners.items():
            ours = getattr(self, section)
            changed = asdict(ours).items() - asdict(type(ours)()).items()
            for name in sorted(f"{section}.{name}={value}" for name, value in changed):
                why = f"{name} is a setting of {owner}, and loss.objective is {chosen}; leave it out, or"
                yield owner != chosen and not name.startswith(_SHARED), f"{why} --set loss.objective={owner}"
        idle = chosen == "vicreg" and not any(asdict(self.vicreg)[name] for name in _VICREG)
        yield idle, f"vicreg.{', '.join(_VICREG)} are 0; nothing would be learnt"

    def _rules_of_values(self) -> Iterator[_Rule]:
        loss, optim, model, run = self.loss, self.optim, self.model, self.run
        for name in _RANGES:
            low, high = attrgetter(name)(self)
            yield low > high, f"{name} is {low},{high}; the first must not exceed the second"
        yield run.pack and run.compile, "run.compile compiles passes of one size of crops; leave run.pack out"
        yield not (loss.dino or loss.ibot), "loss.dino and loss.ibot are both 0; nothing would be learnt"
        why = f"optim.momentum is {optim.momentum}, above optim.momentum_end, {optim.momentum_end}"
        yield optim.momentum > optim.momentum_end, why
        own = loss.teacher_patch_temp or loss.warmup_teacher_patch_temp
        yield own and not loss.ibot, "loss.teacher_patch_temp is of masked patches; it needs loss.ibot"
        for name in ("patch_bottleneck", "patch_hidden", "patch_prototypes"):
            why = f"head.{name} is of a separate head; it needs loss.ibot and --set loss.shared_head=false"
            yield getattr(self.head, name) and not self.has_patch_head, why
        idle = self.head.patch_hidden and self.head.layers == 1
        yield idle, "head.patch_hidden is of hidden layers, which head.layers=1 does not have"
        why = "head.norm_last_layer keeps the length that head.weight_norm=false does not separate; --set"
        idle = self.head.norm_last_layer and not self.head.weight_norm
        yield idle, f"{why} head.norm_last_layer=false"
        why = "model.init_heads needs a model.init that is a checkpoint, FILE.pt, of a training"
        yield model.init_heads and not model.init.endswith(".pt"), why
        why = f"model.drop_path is {model.drop_path}; distilling from a frozen teacher has no stochastic"
        yield loss.distill and model.drop_path, f"{why} depth; --set model.drop_path=0"

    def _rules_of_the_last_phase(self) -> Iterator[_Rule]:
        epochs, usual = self.run.high_resolution_epochs, self.views.global_size
        size = self.views.high_resolution_size
        why = f"views.high_resolution_size is {size} and run.high_resolution_epochs {epochs}; give both or"
        yield bool(size) != bool(epochs), f"{why} neither"
        most = self.run.epochs
        yield epochs >= most, f"run.high_resolution_epochs is {epochs} of {most}; it must be fewer"
        why = f"views.high_resolution_size is {size}; it must exceed views.global_size, {usual}"
        yield 0 < size <= usual, why

    def _rules_of_local_crops(self) -> Iterator[_Rule]:
        loss, starts, lasts = self.loss, self.loss.local_start_epochs, self.loss.local_warmup_epochs
        why = "loss.local is 1; leave loss.local_start_epochs and loss.local_warmup_epochs out, or state it"
        yield loss.local == 1 and (starts or lasts), why
        weighs = loss.local != 1
        yield weighs and not self.views.local_crops, "loss.local is of views.local_crops, which is 0"
        yield weighs and not loss.dino, "loss.local is a weight within loss.dino, which is 0"
        yield self._too_late("loss.local_start_epochs", "loss.local_warmup_epochs")

    def _too_late(self, start: str, warmup: str) -> _Rule:
        """Refuse what two settings let begin, and reach its full weight, after the run."""
        starts, lasts, epochs = attrgetter(start)(self), attrgetter(warmup)(self), self.run.epochs
        why = f"{start} is {starts:g} and {warmup} {lasts:g}; they must end within the run's {epochs}"
        return starts >= epochs or starts + lasts > epochs, why

    def _rules_of_gram(self) -> Iterator[_Rule]:
        gram, patch = self.gram, self.model.patch_size
        if not gram.weight:
            why = "gram.weight is 0; leave the other settings of gram out, or state a weight"
            yield gram != sections.GramConfig(), why
            return
        starts, copied = gram.start_epochs, gram.copy_epochs or gram.start_epochs
        why = f"gram.weight is {gram.weight}, which needs the teacher of loss.objective={_DISTILLATION}"
        yield not self.distils, why
        yield self._too_late("gram.start_epochs", "gram.warmup_epochs")
        yield copied > starts, f"gram.copy_epochs is {copied:g}, after gram.start_epochs, {starts:g}"
        why = "gram.copy_epochs is of a teacher of this run; leave it or gram.teacher out"
        yield gram.teacher and gram.copy_epochs, why
        why = "gram.start_epochs is 0, and its teacher untrained; begin later, or state gram.teacher"
        yield not (copied or gram.teacher or self.model.init), why
        why = f"gram.renewals is {gram.renewals}, gram.renew_epochs {gram.renew_epochs:g}; both or neither"
        yield bool(gram.renewals) != bool(gram.renew_epochs), why
        why = f"gram.tokens={gram.tokens} is of masks, which need loss.ibot and no loss.distill"
        yield gram.tokens != "all" and (not self.loss.ibot or self.loss.distill), why
        size, near = gram.crop_size, max(1, round(gram.crop_size / patch)) * patch
        yield size % patch, f"gram.crop_size is {size}, no multiple of {patch}; --set gram.crop_size={near}"

    def _rules_of_mae(self) -> Iterator[_Rule]:
        if self.loss.objective != "mae":
            return
        mae, crops, heads = self.mae, self.views.local_crops, self.mae.decoder_heads
        patches = (self.views.global_size // self.model.patch_size) ** 2
        seen = visible_patches(patches, mae.mask_ratio)
        yield not self.is_transformer, f"mae needs {_OURS}, not {self.model.arch}"
        yield crops, f"views.local_crops is {crops}, and mae sees one crop; --set views.local_crops=0"
        why = f"mae.mask_ratio={mae.mask_ratio} leaves {seen} of {patches} patches visible"
        yield not 0 < seen < patches, why
        why = f"mae.decoder_dim is {mae.decoder_dim}; expected a multiple of 4 and of {heads} heads"
        yield mae.decoder_dim % heads or mae.decoder_dim % 4, why

    def _rules_of_timm(self) -> Iterator[_Rule]:
        if self.is_transformer:
            return
        arch = self.model.arch
        yield self.loss.ibot, f"loss.ibot needs {_OURS}, not {arch}"
        for name, off in _VIT_ONLY.items():
            value = attrgetter(name)(self)
            yield value != off, f"{name} is {value}, which {arch} does not have; --set {name}={off}"

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
        _refuse(self._rules_of_batches(world))

    def _rules_of_batches(self, world: int) -> Iterator[_Rule]:
        batch, accumulate, objective = self.run.batch_size, self.run.accumulate, self.loss.objective
        share = batch // world
        yield batch % world, f"a batch of {batch} does not divide evenly among {world} processes"
        why = f"{objective} compares all images of a batch; it needs run.accumulate=1 and a run.batch_size of"
        yield objective in _OF_BATCHES and (accumulate > 1 or batch < 2), f"{why} at least 2"
        why = f"{share} images per process do not make {accumulate} equal micro-batches; choose a"
        yield share % accumulate, f"{why} run.accumulate that divides them"
        why = "KoLeo compares images, and each micro-batch has one; lower run.accumulate, raise"
        yield self.loss.koleo and share == accumulate, f"{why} run.batch_size, or --set loss.koleo=0"

    def check_sizes(self, stride: int, names: tuple[str, ...]) -> None:
        """Refuse crop sizes, given by field name, that are not multiples of the patch size or stride."""
        for name in names:
            size, of = getattr(self.views, name), f"the patch size or stride of {self.model.arch}"
            near = f"--set views.{name}={max(1, round(size / stride)) * stride}"
            _refuse([(size % stride, f"views.{name} is {size}, no multiple of {stride}, {of}; {near}")])

    def views_at(self, epoch: int) -> sections.ViewsConfig:
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
        width, depth, heads = model.dim or width, model.depth or depth, model.heads or heads
        _refuse([(width % heads, f"model.dim={width}: expected a multiple of model.heads, {heads}")])
        return VitConfig(
            width,
            depth,
            heads,
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
        stated = self.to_dict().items()
        return {f"{name}.{field}": value for name, fields in stated for field, value in fields.items()}


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
    alone = config.run.pack and not config.views.local_crops
    _refuse([(alone, "run.pack joins crops of two sizes, here are no local ones; leave it out")])
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


def _refuse(rules: Iterable[_Rule]) -> None:
    for broken, why in rules:
        if broken:
            raise ConfigError(f"train: {why}")


def _known_sections() -> str:
    return "known: " + ", ".join(section.name for section in fields(TrainConfig))
