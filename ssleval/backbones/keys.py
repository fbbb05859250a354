"""Keys of the last attention, read by a hook while a model runs."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from ssleval.errors import NotApplicableError

PLAIN = {"VisionTransformer", "VisionTransformerDistilled"}
"""Classes of timm whose attention is a softmax of query times key, without relative or rotary positions."""


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
