"""What blocks of a model give: tokens of timm's models, and keys of the last attention, read by a hook."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor, nn

from ssleval.core.backbone import Features, Tokens
from ssleval.errors import NotApplicableError

PLAIN = {"VisionTransformer", "VisionTransformerDistilled"}
"""Classes of timm whose attention is a softmax of query times key, without relative or rotary positions."""


Head: TypeAlias = Callable[[Tensor], Tensor]


def features_of(
    model: Any, images: Tensor, blocks: Sequence[int], head: Head, *, maps: bool, norm: bool
) -> Features:
    """Run a timm model once; ``head`` makes ``pooled`` of its final output.

    A model that has ``maps`` has one block: its last map.
    """
    if not blocks:
        return Features(head(model.forward_features(images)))
    wanted = [len(model.feature_info) - 1] * len(blocks) if maps else blocks
    indices, has_cls = sorted(set(wanted)), getattr(model, "cls_token", None) is not None
    if not getattr(model, "num_prefix_tokens", 0):
        final, found = model.forward_intermediates(images, indices=indices, norm=norm)
        tokens = [Tokens(patches.permute(0, 2, 3, 1)) for patches in found]
    else:
        final, found = model.forward_intermediates(
            images, indices=indices, norm=norm, return_prefix_tokens=True
        )
        tokens = [
            Tokens.from_prefix(patches.permute(0, 2, 3, 1), prefix, has_cls=has_cls)
            for patches, prefix in found
        ]
    return Features(head(final), tuple(tokens[indices.index(index)] for index in wanted))


def seen_by(module: nn.Module, run: Callable[[], object], *, taken: bool = False) -> Tensor:
    """Return what ``module`` gives while ``run`` runs, or what it is given first, if ``taken``."""
    found: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | None = None) -> None:
        found.append(inputs[0] if output is None else output)

    hook: Any = module.register_forward_pre_hook if taken else module.register_forward_hook
    with hook(keep):
        run()
    return found[0]


def on_grid(keys: Float[Tensor, "b t d"], grid: Sequence[int]) -> Float[Tensor, "b h w d"]:
    """Return the keys of the patches, which are the last of a sequence."""
    return keys[:, -grid[0] * grid[1] :].unflatten(1, grid)


def timm_keys(
    name: str, model: Any, run: Callable[[], object], grid: Sequence[int]
) -> Float[Tensor, "b h w d"]:
    """Return the keys of a timm model, which open_clip wraps too; refuse one that attends otherwise."""
    blocks = getattr(model, "blocks", None)
    last: Any = blocks[-1].attn if blocks is not None and type(model).__name__ in PLAIN else None
    if type(last).__name__ != "Attention":
        raise NotApplicableError(f"{name}: keys of timm's {type(model).__name__} are not known to ssleval")
    qkv = seen_by(last.qkv, run).unflatten(-1, (3, last.num_heads, -1))
    return on_grid(last.k_norm(qkv[:, :, 1]).flatten(2), grid)
