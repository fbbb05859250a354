"""The settings of a training run, section by section. Defaults are those of DINO.

Sources: Caron et al. 2021, arXiv:2104.14294 (DINO); Zhou et al. 2021, arXiv:2111.07832 (iBOT); Oquab et
al. 2023, arXiv:2304.07193 (DINOv2); and the arguments of their published code, where the papers are silent.
Numbers that decide how much memory is taken have an upper bound too, far above all that is published.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from ssleval.core.settings import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Pair,
    Positive,
    ProperFraction,
    Seed,
    Side,
    Width,
)

UpToThousand: TypeAlias = Annotated[int, Meta(ge=0, le=1_000)]
Layers: TypeAlias = Annotated[int, Meta(ge=1, le=100)]
"""Linear maps of a head."""
OtherWidth: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 20)]
"""Channels in place of others; 0 keeps those."""
Ratios: TypeAlias = Annotated[
    tuple[Annotated[float, Meta(ge=0.1, le=10)], ...], Meta(min_length=2, max_length=2)
]
Share: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
"""A number in (0, 1]."""
ShareRange: TypeAlias = Annotated[tuple[Share, ...], Meta(min_length=2, max_length=2)]
"""Two numbers in (0, 1]."""
CropProbabilities: TypeAlias = Annotated[tuple[Fraction, ...], Meta(min_length=3, max_length=3)]
"""Probabilities for the first global crop, the second global crop, and local crops."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The student's architecture."""

    arch: str = "vit_small"
    """A size of `backbones.vit`, or ``timm:NAME``. The other fields are for our own ViTs."""
    init: str = ""
    """Weights to start from: a name that `ssleval.load` takes, or a checkpoint of another training, whose
    teacher they are; empty: untrained. See `ssleval.train.start`."""
    init_heads: bool = False
    """Whether to take the heads of such a checkpoint too."""
    dim: OtherWidth = 0
    """Width, depth and heads override those of ``arch``; 0 keeps them."""
    depth: UpToThousand = 0
    heads: UpToThousand = 0
    patch_size: Side = 16
    stem: Literal["patch", "residual"] = "patch"
    """How patches are embedded. `residual` is in no DINO paper, but learns from far fewer images."""
    drop_path: ProperFraction = 0.1
    """Stochastic depth rate of the student's last block (DINOv2: 0.3)."""
    drop_path_rule: Literal["linear", "uniform"] = "linear"
    """The rate grows linearly from 0 at the first block (DINO), or is the same for all blocks (DINOv2)."""
    drop_path_draw: Literal["image", "batch"] = "image"
    """Drop each image's branch independently (DINO), or an exact share of every batch (DINOv2)."""
    ffn: Literal["mlp", "swiglu"] = "mlp"
    """The feed-forward part of a block (DINOv2 from scratch, ViT-L and g: `swiglu`)."""
    class_token_std: Positive = 0.02
    """Standard deviation of the class token at first (DINOv2: 1e-6)."""
    layerscale: NonNegative = 0.0
    """Initial LayerScale value; 0 disables LayerScale (DINOv2: 1e-5)."""
    registers: UpToThousand = 0
    positions: Literal["dino", "size", "size_antialias"] = "dino"
    """How position embeddings are resized for local crops; use `size_antialias` with registers."""


@dataclass(frozen=True, slots=True)
class ViewsConfig:
    """Random crops and colour augmentation (DINO sec. 3 and `main_dino.py`)."""

    global_size: Side = 224
    global_scale: ShareRange = (0.4, 1.0)
    """Smallest and largest fraction of the image's area."""
    local_size: Side = 96
    local_scale: ShareRange = (0.05, 0.4)
    local_crops: UpToThousand = 8
    ratio: Ratios = (3 / 4, 4 / 3)
    """Smallest and largest width per height."""
    flip: Fraction = 0.5
    jitter: Fraction = 0.8
    """Probability of colour jitter; its strengths follow."""
    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    saturation: NonNegative = 0.2
    hue: Annotated[float, Meta(ge=0, le=0.5)] = 0.1
    """Largest shift, in turns of the colour circle."""
    grayscale: Fraction = 0.2
    blur: CropProbabilities = (1.0, 0.1, 0.5)
    blur_sigma: Pair = (0.1, 2.0)
    """Range of the standard deviation, in pixels of the crop; drawn uniformly."""
    solarize: CropProbabilities = (0.0, 0.2, 0.0)
    """The threshold is 128."""
    high_resolution_size: Annotated[int, Meta(ge=0, le=8_192)] = 0
    """Side of global crops in the last ``run.high_resolution_epochs``; local crops grow in proportion
    (DINOv2: 518 after 224)."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """The projection head (DINO sec. 3.1 and appendix C)."""

    prototypes: Annotated[int, Meta(ge=1, le=1 << 24)] = 65536
    hidden: Width = 2048
    bottleneck: Width = 256
    patch_bottleneck: OtherWidth = 0
    """Bottleneck of the patches' own head; 0: as ``bottleneck`` (DINOv2 ViT-L: 256 beside 384)."""
    patch_hidden: OtherWidth = 0
    """Hidden width of that head; 0: as ``hidden`` (DINOv3: 4,096 beside 8,192)."""
    patch_prototypes: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    """Prototypes of that head; 0: as ``prototypes`` (DINOv3: 98,304 beside 262,144)."""
    layers: Layers = 3
    batch_norm: bool = False
    """Batch-normalise hidden layers, as ``use_bn_in_head`` of the official code. Statistics are over all
    crops of a micro-batch, on CPUs those of one process. Class tokens are almost equal at first; short runs
    of small networks leave that plateau only with it."""
    norm_last_layer: bool = True
    """Keep the length of prototypes at 1; False trains it (better for ViT-S, per DINO's README)."""
    weight_norm: bool = True
    """Whether direction and length of a prototype are weights of their own; DINOv3: one plain vector."""

    @property
    def of_patches(self) -> "HeadConfig":
        """The settings of the patches' own head."""
        return replace(
            self,
            bottleneck=self.patch_bottleneck or self.bottleneck,
            hidden=self.patch_hidden or self.hidden,
            prototypes=self.patch_prototypes or self.prototypes,
        )


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The losses, and how the teacher's logits become targets."""

    objective: Literal["distillation", "simclr", "vicreg", "lejepa", "mae"] = "distillation"
    """What is learnt. The other fields, but for ``koleo``, are of self-distillation. Other objectives have a
    section of their own, and no teacher: the EMA of the student is only what becomes the model."""
    student_temp: Positive = 0.1
    teacher_temp: Positive = 0.04
    """Lower than the student's: sharpening. DINO's better recipe ends at 0.07."""
    warmup_teacher_temp: Positive = 0.04
    warmup_teacher_temp_epochs: NonNegative = 0.0
    """Length of the linear warm-up of the teacher temperature; DINO's better recipe: 30."""
    teacher_temp_by: Literal["step", "epoch"] = "step"
    """Whether its warm-up moves every step (DINOv2) or once an epoch (DINO, iBOT)."""
    teacher_patch_temp: NonNegative = 0.0
    """Of the targets of patches, where it differs; 0: as ``teacher_temp`` (iBOT states both)."""
    warmup_teacher_patch_temp: NonNegative = 0.0
    """0: as ``warmup_teacher_temp``."""
    centering: Literal["centering", "sinkhorn", "none"] = "centering"
    center_momentum: Fraction = 0.9
    patch_center: Literal["masked", "all"] = "masked"
    """Patches of the teacher over which their centre is the mean: masked ones (DINOv2), or all (iBOT)."""
    sinkhorn_iterations: Annotated[int, Meta(ge=1, le=1_000)] = 3
    dino: NonNegative = 1.0
    """Weight of the class-token loss."""
    local: NonNegative = 1.0
    """Weight, in that loss, of local crops from ``local_start_epochs`` + ``local_warmup_epochs`` on; 1 before
    (DINOv3: 0.5)."""
    local_start_epochs: NonNegative = 0.0
    """Epochs before it leaves 1 (DINOv3: 1,000 of 1,200)."""
    local_warmup_epochs: NonNegative = 0.0
    """Epochs in which it then moves along half a cosine (DINOv3: 1)."""
    ibot: NonNegative = 0.0
    """Weight of the masked-patch loss (iBOT, DINOv2: 1)."""
    shared_head: bool = True
    """Whether patches use the class token's head (iBOT; DINOv2 S and B) or a separate one."""
    mask_probability: Fraction = 0.5
    """Fraction of global crops that have masked patches."""
    mask_ratio: ShareRange = (0.1, 0.5)
    """Range of the fraction of masked patches in such a crop."""
    koleo: NonNegative = 0.0
    """Weight of the differential-entropy regulariser on class tokens (DINOv2: 0.1)."""
    distill: str = ""
    """A training checkpoint. Its frozen teacher gives the targets in place of the EMA teacher, and the EMA
    of the student still becomes the model (DINOv2 sec. 5). No patch is masked; the patch loss is over all."""


@dataclass(frozen=True, slots=True)
class GramConfig:
    """Gram anchoring (Simeoni et al. 2025, arXiv:2508.10104, sec. 4); see `ssleval.train.gram`."""

    weight: NonNegative = 0.0
    """Weight of the loss from ``start_epochs`` + ``warmup_epochs`` on (DINOv3: 2); 0: no such loss."""
    start_epochs: NonNegative = 0.0
    """Epochs before the loss begins (DINOv3: 1,000 of 1,200)."""
    warmup_epochs: NonNegative = 0.0
    """Epochs in which its weight then rises along half a cosine (DINOv3: 1)."""
    teacher: str = ""
    """Its teacher at first: what ``model.init`` takes; empty: a copy of this run's EMA teacher."""
    copy_epochs: NonNegative = 0.0
    """Epochs after which this copy is made; 0: when the loss begins."""
    renew_epochs: NonNegative = 0.0
    """Epochs after which the EMA teacher replaces it, again and again (DINOv3: 10)."""
    renewals: UpToThousand = 0
    """How often at most (DINOv3: 3)."""
    crop_size: Annotated[int, Meta(ge=0, le=8_192)] = 0
    """Side of its crops: the student's global crops without distortion; 0: as the student's (DINOv3: 512 to
    256). Its patches are resized to the student's grid."""
    normalised: bool = True
    """Whether similarities are cosines, or products of the features as they are."""
    tokens: Literal["all", "masked", "unmasked"] = "all"
    """Which patches of the student enter."""
    negatives: Literal["kept", "removed"] = "kept"
    """Whether similarities below 0 stay or become 0."""


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """The optimiser and its schedules (DINO sec. 3.2 and `main_dino.py`)."""

    kind: Literal["adamw", "sgd", "lars"] = "adamw"
    """For a ResNet-50, DINO takes ``sgd``, SimCLR and VICReg ``lars``, both at a momentum of 0.9."""
    lr: Positive = 5e-4
    """Peak learning rate at ``lr_batch`` images a step; ``lr_rule`` scales it to the actual batch size."""
    lr_batch: Count = 256
    lr_rule: Literal["linear", "sqrt"] = "linear"
    """Linear scaling (DINO), or by the square root (DINOv2)."""
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: down to ``min_lr``, or as it is (DINOv3)."""
    min_lr: NonNegative = 1e-6
    warmup_epochs: NonNegative = 10.0
    weight_decay: NonNegative = 0.04
    weight_decay_end: NonNegative = 0.4
    """Final value of the cosine weight decay schedule."""
    beta1: ProperFraction = 0.9
    beta2: ProperFraction = 0.999
    clip: NonNegative = 3.0
    """Largest L2 norm of a gradient; 0 disables clipping. DINO's README: 3 for ViTs in fp16, else 0."""
    clip_by: Literal["tensor", "module"] = "tensor"
    """The norm of each parameter tensor (DINO), or of backbone and heads as wholes (DINOv2)."""
    freeze_last_layer_epochs: NonNegative = 1.0
    freeze_last_layer_by: Literal["gradient", "lr"] = "gradient"
    """Without a gradient (DINO), or at a learning rate of 0, with which moments still gather (DINOv2)."""
    layer_decay: Share = 1.0
    """Learning rate factor per block, from the last to the first (DINOv2: 0.9)."""
    patch_embed_lr: NonNegative = 1.0
    """Further factor for the patch embedding (DINOv2: 0.2)."""
    momentum: Fraction = 0.996
    """EMA momentum of the teacher at the start. DINO's README: 0.9995 for batches of 256."""
    momentum_end: Fraction = 1.0


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Length, batch size, numerics, and what is saved."""

    epochs: Count = 100
    high_resolution_epochs: Natural = 0
    """How many of the last epochs use ``views.high_resolution_size``."""
    batch_size: Count = 64
    """Images a step, over all processes."""
    accumulate: Count = 1
    """Gradient accumulation: micro-batches per step and process."""
    seed: Seed = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    residual: Literal["fp32", "computed"] = "fp32"
    """Type in which a transformer adds up its blocks under bf16 and fp16: fp32, as in the published code,
    or that of the products, which is faster and less exact."""
    compile: bool = False
    """Compile the backbones with `torch.compile`, which needs a C++ compiler on a CPU."""
    gradient_checkpointing: bool = False
    """Compute each block of a transformer again in the backward pass instead of keeping its activations."""
    pack: bool = False
    """Pass crops of all sizes through a transformer together: one product instead of one for each size."""
    tf32: bool = True
    """Whether a GPU rounds the factors of float32 products to 10 bits (TF32), as in the published runs."""
    shard: bool = False
    """Shard weights, gradients and optimiser state over processes (FSDP2) instead of replicating them."""
    checkpoint_every: Natural = 0
    """Epochs between checkpoints that are kept for good; 0 keeps the last and the best."""
    save_steps: Natural = 0
    """Steps between checkpoints to resume from, beside those at the end of every epoch; 0: no others."""
    save_minutes: NonNegative = 0.0
    """Minutes between such checkpoints; 0: none for time alone."""
    evaluate_every: Natural = 0
    """Epochs between evaluations of the teacher; 0 disables them."""
    evaluate_on: str = ""
    """Dataset of these evaluations; empty means the training dataset."""
    evaluate_limit: Count = 2000
    """Images of each split in these evaluations."""
    log_every: Count = 10
    """Steps between reads of the losses from the device. Every step is recorded in any case."""
    memory_gb: NonNegative = 4.0
    """Decoded images stay in memory if all of them fit into this."""
