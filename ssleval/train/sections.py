"""The settings of a training run, section by section. Defaults are those of DINO.

Sources: Caron et al. 2021, arXiv:2104.14294 (DINO); Zhou et al. 2021, arXiv:2111.07832 (iBOT); Oquab et
al. 2023, arXiv:2304.07193 (DINOv2); and the arguments of their published code, where the papers are silent.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The network that is trained."""

    arch: str = "vit_small"
    """A size of `backbones.vit`, or ``timm:NAME`` for a convolutional network; the rest is for ViTs."""
    dim: int = 0
    """Width, depth and heads in place of those of ``arch``, where not 0."""
    depth: int = 0
    heads: int = 0
    patch_size: int = 16
    stem: Literal["patch", "residual"] = "patch"
    """How patches are embedded; `residual` is no architecture of the DINO papers, but learns from far fewer
    images."""
    drop_path: float = 0.1
    """Stochastic depth of the student's last block (DINOv2: 0.3)."""
    drop_path_rule: Literal["linear", "uniform"] = "linear"
    """From 0 at the first block (DINO), or the same for all (DINOv2)."""
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
    high_resolution_size: int = 0
    """Side of global crops in the last ``run.high_resolution_epochs``, local crops in proportion (DINOv2:
    518 after 224)."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """The projection head (DINO sec. 3.1 and appendix C)."""

    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    layers: int = 3
    batch_norm: bool = False
    """Normalise hidden layers over all crops of a part, on CPUs of one process, as ``use_bn_in_head`` of the
    official code; short runs of small networks then leave the plateau at once on which class tokens are all
    but equal."""
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
    distill: str = ""
    """A training checkpoint whose teacher, larger and frozen, assigns in place of the moving average, which
    still becomes the model (DINOv2 sec. 5). Patches are then charged whole, none is hidden."""


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """The optimiser and its schedules (DINO sec. 3.2 and `main_dino.py`)."""

    kind: Literal["adamw", "sgd"] = "adamw"
    """``sgd``, with a momentum of 0.9, is what DINO trains a ResNet-50 with."""
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
    high_resolution_epochs: int = 0
    """How many of them, the last, see crops of ``views.high_resolution_size``."""
    batch_size: int = 64
    """Images a step, over all processes."""
    accumulate: int = 1
    """Equal parts that a process's images of a step are passed through in, one after another."""
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    """Compile the backbones with `torch.compile`, which needs a C++ compiler on a CPU."""
    shard: bool = False
    """Give every process its share of weights, gradients and optimiser (FSDP2) instead of a copy of them, for
    networks that one device cannot hold."""
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
