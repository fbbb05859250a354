"""Every setting of a training run. Defaults are those of DINO; recipes (YAML) state what else differs.

Sources: Caron et al. 2021, arXiv:2104.14294 (DINO); Zhou et al. 2021, arXiv:2111.07832 (iBOT); Oquab et
al. 2023, arXiv:2304.07193 (DINOv2); and the arguments of their published code, where the papers are silent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from ssleval.errors import ConfigError, UnknownNameError
from ssleval.protocol import parse_settings, read_value
from ssleval.registry import nearest
from ssleval.vit import VitConfig, sized

__all__ = [
    "HeadConfig", "LossConfig", "ModelConfig", "OptimConfig", "RunConfig", "TrainConfig", "ViewsConfig",
    "read_config", "recipes",
]  # fmt: skip

_RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The network that is trained."""

    arch: str = "vit_small"
    """A size of `ssleval.vit`."""
    dim: int = 0
    """Width, depth and heads in place of those of ``arch``, where not 0."""
    depth: int = 0
    heads: int = 0
    patch_size: int = 16
    stem: Literal["patch", "residual"] = "patch"
    """How patches are embedded; `residual` is no architecture of the DINO papers, but learns from far fewer
    images."""
    drop_path: float = 0.1
    """Stochastic depth of the student's last block, linear from 0 (DINO; DINOv2: 0.3)."""
    layerscale: float = 0.0
    """Initial scale of residual branches; 0 has none (DINOv2: 1e-5)."""
    registers: int = 0
    positions: Literal["dino", "size", "size_antialias"] = "dino"
    """How position embeddings are resized for local crops; `size_antialias` where there are registers."""


@dataclass(frozen=True, slots=True)
class ViewsConfig:
    """Random crops and what is done to their colours (DINO sec. 3 and `main_dino.py`)."""

    global_size: int = 224
    global_scale: tuple[float, ...] = (0.4, 1.0)
    """Least and largest share of the image's area."""
    local_size: int = 96
    local_scale: tuple[float, ...] = (0.05, 0.4)
    local_crops: int = 8
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    """Probability of the colour jitter, whose strengths follow."""
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale: float = 0.2
    blur: tuple[float, ...] = (1.0, 0.1, 0.5)
    """Probability for the first global, the second global, and local crops."""
    blur_sigma: tuple[float, ...] = (0.1, 2.0)
    """Standard deviation in pixels of the crop, drawn uniformly."""
    solarize: tuple[float, ...] = (0.0, 0.2, 0.0)
    """Probability for the first global, the second global, and local crops; threshold 128."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """The projection head (DINO sec. 3.1 and appendix C)."""

    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    layers: int = 3
    batch_norm: bool = False
    """Normalise hidden layers over all crops of a step, as ``use_bn_in_head`` of the official code; short
    runs of small networks then leave the plateau at once on which class tokens are all but equal."""
    norm_last_layer: bool = True
    """Keep the length of prototypes at 1; False trains it (better for ViT-S, per DINO's README)."""


@dataclass(frozen=True, slots=True)
class LossConfig:
    """What the student is asked for."""

    student_temp: float = 0.1
    teacher_temp: float = 0.04
    """Lower than the student's: sharpening. DINO's better recipe ends at 0.07."""
    warmup_teacher_temp: float = 0.04
    warmup_teacher_temp_epochs: int = 0
    """Linear from the warm-up value, step by step; DINO's better recipe: 30."""
    centering: Literal["centering", "sinkhorn", "none"] = "centering"
    center_momentum: float = 0.9
    sinkhorn_iterations: int = 3
    dino: float = 1.0
    """Weight of the class-token loss."""
    ibot: float = 0.0
    """Weight of the masked-patch loss (iBOT, DINOv2: 1)."""
    shared_head: bool = True
    """Whether patches go through the class token's head (iBOT and DINOv2 S and B) or one of their own."""
    mask_probability: float = 0.5
    """Share of global crops of which patches are masked."""
    mask_ratio: tuple[float, ...] = (0.1, 0.5)
    """Range of the share of patches masked in those."""
    koleo: float = 0.0
    """Weight of the differential-entropy regulariser on class tokens (DINOv2: 0.1)."""


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """AdamW and its schedules (DINO sec. 3.2 and `main_dino.py`)."""

    lr: float = 5e-4
    """At ``lr_batch`` images a step; scaled by the true number, linearly or by its root (DINOv2)."""
    lr_batch: int = 256
    lr_rule: Literal["linear", "sqrt"] = "linear"
    min_lr: float = 1e-6
    warmup_epochs: float = 10.0
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 3.0
    """Largest L2 norm of a gradient; 0 clips none. DINO's README: 3 for ViTs in fp16, else 0."""
    clip_by: Literal["tensor", "module"] = "tensor"
    """Of every parameter tensor by itself (DINO), or of backbone and heads as wholes (DINOv2)."""
    freeze_last_layer_epochs: float = 1.0
    layer_decay: float = 1.0
    """Factor of the learning rate per block from the last to the first (DINOv2: 0.9)."""
    patch_embed_lr: float = 1.0
    """Further factor for the patch embedding (DINOv2: 0.2)."""
    momentum: float = 0.996
    """Of the teacher; ends at 1. DINO's README: 0.9995 for batches of 256."""
    momentum_end: float = 1.0


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How long, how large, and what is kept."""

    epochs: int = 100
    batch_size: int = 64
    """Images a step, over all processes."""
    accumulate: int = 1
    """Parts a step's images are passed through in, one after another."""
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpoint_every: int = 0
    """Epochs between checkpoints that are kept for good; 0 keeps the last and the best."""
    evaluate_every: int = 0
    """Epochs between evaluations of the teacher; 0 makes none."""
    evaluate_on: str = ""
    """Dataset of these evaluations; empty means the one trained on."""
    evaluate_limit: int = 2000
    log_every: int = 10
    """Steps between reads of the losses; every step is recorded whatever this is."""
    memory_gb: float = 4.0
    """Decoded images are kept in memory if all of them need no more than this."""


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
        views, loss, run = self.views, self.loss, self.run
        for name, low, high in (
            ("views.global_scale", *_pair("views.global_scale", views.global_scale)),
            ("views.local_scale", *_pair("views.local_scale", views.local_scale)),
            ("views.blur_sigma", *_pair("views.blur_sigma", views.blur_sigma)),
            ("loss.mask_ratio", *_pair("loss.mask_ratio", loss.mask_ratio)),
            ("views.ratio", *_pair("views.ratio", views.ratio)),
        ):
            if not 0 < low <= high:
                raise ConfigError(f"train: {name} is {low},{high}; expected 0 < first <= second")
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

    def vit(self) -> VitConfig:
        """Return the student's transformer.

        Raises:
            UnknownNameError: no such size.
            ConfigError: crop sizes are no multiple of the patch size.
        """
        model, views = self.model, self.views
        width, depth, heads = sized(model.arch)
        for name, size in (("global", views.global_size), ("local", views.local_size)):
            if size % model.patch_size:
                raise ConfigError(
                    f"train: {name} crops of {size} pixels are no multiple of patch {model.patch_size}; "
                    f"--set views.{name}_size={size // model.patch_size * model.patch_size}"
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
            mask_token=self.loss.ibot > 0,
            drop_path=model.drop_path,
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
        raise UnknownNameError(f"no recipe {recipe!r}; {nearest(recipe, recipes())}")
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
                raise UnknownNameError(f"train: {section} has no {name!r}; {nearest(name, hints)}")
        values = {name: _plain(f"{section}.{name}", value, hints[name]) for name, value in stated.items()}
        changed[section] = replace(part, **values)
    return replace(base, **changed)


def _plain(name: str, value: Any, hint: Any) -> Any:
    """Read YAML's values by the same rules as those of the command line."""
    text = ",".join(str(part) for part in value) if isinstance(value, (list, tuple)) else str(value)
    return read_value(name, text, hint)


def _pair(name: str, values: tuple[float, ...]) -> tuple[float, float]:
    if len(values) != 2:
        raise ConfigError(f"train: {name} takes two numbers, as in 0.4,1")
    return values[0], values[1]


def _sections() -> str:
    return "known: " + ", ".join(one.name for one in fields(TrainConfig))
