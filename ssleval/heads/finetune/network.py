"""What is fine-tuned: a copy of the backbone and a linear layer, and how deep each of its weights lies."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssleval.core import Readout
from ssleval.core.backbone import Backbone
from ssleval.core.faults import faults_of, is_foreign
from ssleval.core.trainable import reached, train, trainable_copy
from ssleval.errors import NotApplicableError

_TOGETHER = 12
"""Tensors of a layer where nothing tells the layers, as in timm's ``auto_group_layers``."""
_LOOSE = (
    "*pos_embed*", "*position_embedding*", "*positional_embedding*", "*_token", "*_tokens",
    "*class_embedding",
)  # fmt: skip
"""Patterns of the names of tokens and positions, for networks that state none."""


class Network(nn.Module):
    """A trainable copy of a backbone, which is left as it is, with a linear layer on one of its vectors.

    Weights that the output does not depend on, such as a text tower's, stay frozen.

    Args:
        backbone: the model.
        readout: the vector: pooled, cls or mean; before the final norm it gets a norm of its own.
        classes: the outputs.
        deviation: of the normal distribution that weights of the linear layer are drawn from.
        drop_path: stochastic depth of the last block, which grows from 0 at the first.
        seed: of the linear layer.

    Raises:
        NotApplicableError: the model cannot be trained, or has no blocks that stochastic depth can drop.
    """

    def __init__(
        self,
        backbone: Backbone,
        readout: Readout,
        classes: int,
        *,
        deviation: float,
        drop_path: float,
        seed: int,
    ) -> None:
        super().__init__()
        card = backbone.card
        width = (card.pooled_dim or card.embed_dim) if readout.kind == "pooled" else card.embed_dim
        self.backbone, self.readout = trainable_copy(backbone), readout
        self.norm = nn.Identity() if readout.norm else nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(self.head.weight, std=deviation, generator=generator)
        nn.init.zeros_(self.head.bias)
        self.to(backbone.mean.device)
        if drop_path:
            _drop_blocks(self.backbone, drop_path)
        self.depths = self._freeze_and_order()
        self.training_mode(mode=True)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c"]:
        """Return the logits of normalised images."""
        kind, backbone = self.readout.kind, self.backbone
        blocks = () if kind == "pooled" else (backbone.num_blocks - 1,)
        foreign = is_foreign(backbone)
        with faults_of(backbone.card.name, foreign=foreign, passing=(torch.OutOfMemoryError,)):
            features = backbone.extract(images, blocks, norm=self.readout.norm)
        if kind == "pooled":
            vector: Tensor | None = features.pooled
        else:
            tokens = features.blocks[0]
            vector = tokens.cls if kind == "cls" else tokens.patches.mean((1, 2))
        if vector is None:
            raise NotApplicableError(f"{backbone.card.name} has no class token")
        return self.head(self.norm(vector))

    def normalised(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        """Return RGB in [0, 1] as the model takes it."""
        return (images - self.backbone.mean) / self.backbone.std

    def training_mode(self, *, mode: bool) -> None:
        """Turn dropout, stochastic depth and statistics of batches on or off, in the backbone too."""
        train(self, mode=mode)

    def group_matcher(self, coarse: bool = False) -> Any:  # noqa: ARG002 - as timm calls it
        """Return timm's function from the name of a weight to the place of its layer."""
        return self._place

    def _place(self, name: str) -> tuple[int]:
        return (self.depths[name],)

    def no_weight_decay(self) -> Sequence[str]:
        """Return patterns of weights that are neither biases nor norms, and are not decayed either."""
        stated: set[str] = set()
        for path, part in self.backbone.named_modules(prefix="backbone"):
            own: Any = getattr(part, "no_weight_decay", None)
            names: Any = own() if callable(own) else ()
            stated |= {f"{path}.{name}" for name in names}
        return sorted(stated or _LOOSE)

    def _freeze_and_order(self) -> Mapping[str, int]:
        """Freeze what the output does not depend on; return the layer of every weight, the head's last."""
        self.training_mode(mode=False)
        entered: list[tuple[Sequence[nn.Module], Tensor]] = []

        def note(blocks: Sequence[nn.Module], _: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
            given = [*inputs, *named.values()]
            entered.append((blocks, next(value for value in given if isinstance(value, Tensor))))

        side = self.backbone.card.native_geometry().fixed_size
        assert side is not None
        images = torch.zeros(2, 3, side, side, device=self.backbone.mean.device)
        with ExitStack() as hooks:
            for blocks in _lists_of_blocks(self.backbone):
                hook = blocks[0].register_forward_pre_hook(partial(note, blocks), with_kwargs=True)
                hooks.callback(hook.remove)
            output = self(images)
        # Another tower may have as many blocks, which images do not enter.
        blocks, inputs = entered[0] if entered else ((), output)
        trained = reached(output, self) if output.requires_grad else set[str]()
        stem = reached(inputs, self) if entered and inputs.requires_grad else set[str]()
        for name, weight in self.named_parameters():
            weight.requires_grad_(name in trained)
        if not any(name.startswith("backbone.") for name in trained):
            raise NotApplicableError(
                f"{self.backbone.card.name}: torch cannot follow how its features depend on its weights "
                "(no_grad or detach in the model?); it cannot be fine-tuned"
            )
        return _depths(self, blocks, stem, [name for name, _ in self.named_parameters() if name in trained])


def _depths(
    network: Network, blocks: Sequence[nn.Module], stem: set[str], trained: Sequence[str]
) -> dict[str, int]:
    """Return the layer of every weight: by timm's matcher, by the list of blocks, or twelve at a time."""
    own = [name for name in trained if name.startswith("backbone.")]
    inside = ((path, part) for path, part in network.named_modules() if part is not network)
    named = [pair for pair in inside if callable(getattr(pair[1], "group_matcher", None))]
    if named:
        placed = _by_timm(*named[0])
    elif blocks:
        placed = _by_blocks(network, blocks, stem, own)
    else:
        placed = {name: place // _TOGETHER for place, name in enumerate(own)}
        placed[""] = max(placed.values(), default=-1) + 1
    return {
        name: placed.get(name, placed[""] if name in trained else 0) for name, _ in network.named_parameters()
    }


def _by_timm(path: str, trunk: Any) -> dict[str, int]:
    """Return the layers of a model of timm; '' stands for what it does not know, as its classifier."""
    from timm.models import group_parameters

    names: Any = _Names([*(name for name, _ in trunk.named_parameters()), ""])
    known = trunk.group_matcher(coarse=False)

    def place(name: str) -> Any:
        return known(name) if name else (float("inf"),)

    matcher = place if callable(known) else known
    found: Any = group_parameters(names, matcher, reverse=True)
    return {(f"{path}.{name}" if name else ""): place for name, place in found.items()}


class _Names(list[str]):
    """Names in place of a module."""

    def named_parameters(self) -> Iterator[tuple[str, str]]:
        return zip(self, self, strict=True)


def _by_blocks(
    network: Network, blocks: Sequence[nn.Module], stem: set[str], trained: Sequence[str]
) -> dict[str, int]:
    """Return layers as timm counts those of a transformer: stem, blocks with the final norm, head."""
    block_of = {id(weight): place for place, block in enumerate(blocks, 1) for weight in block.parameters()}
    leaves = (part for part in network.backbone.modules() if not list(part.children()))
    norm_layers = [part for part in leaves if "norm" in type(part).__name__.lower()]
    norms = {id(weight) for part in norm_layers for weight in part.parameters()}
    weights, last = dict(network.named_parameters()), len(blocks)
    placed = {"": last + 1}
    for name in trained:
        weight = id(weights[name])
        after = last if weight in norms else last + 1
        placed[name] = block_of.get(weight, 0 if name in stem else after)
    return placed


def _lists_of_blocks(backbone: Backbone) -> Iterator[Sequence[nn.Module]]:
    """Yield the lists of as many modules as the model has blocks, where it has several."""
    for part in backbone.modules():
        if isinstance(part, nn.ModuleList | nn.Sequential) and len(part) == backbone.num_blocks > 1:
            yield list(part)


def _drop_blocks(backbone: Backbone, rate: float) -> None:
    """Give blocks stochastic depth, from 0 in the first to ``rate`` in the last, as in timm."""
    from timm.layers.drop import DropPath

    owners: list[tuple[nn.Module, list[str]]] = []
    for part in backbone.modules():
        if (ours := getattr(part, "stochastic_depth", None)) is not None:
            # Transformers of ours draw the branches of all blocks at once.
            ours.rates = torch.linspace(0, rate, len(ours.rates)).tolist()
            return
        names = [name for name in ("drop_path", "drop_path1", "drop_path2") if hasattr(part, name)]
        if names:
            owners.append((part, names))
    if not owners:
        raise NotApplicableError(
            f"{backbone.card.name}: its blocks have no stochastic depth; --set finetune.drop_path=0"
        )
    for (owner, names), own in zip(owners, torch.linspace(0, rate, len(owners)).tolist(), strict=True):
        for name in names:
            setattr(owner, name, DropPath(own))
