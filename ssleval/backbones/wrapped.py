"""Any torch module as a backbone: `wrap`. What its output means is stated, or plain to see; never guessed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssleval.core import BackboneCard
from ssleval.core.backbone import WRAP_CALL, Backbone, Features, Tokens
from ssleval.core.faults import faults_of
from ssleval.core.fingerprints import attributes_sha256, code_sha256
from ssleval.errors import ConfigError, ContractError

Pooling: TypeAlias = Literal["cls", "mean", "given"]
_LINE = f"{WRAP_CALL.removesuffix(')')}, cls=True, registers=0)"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a module's output are."""

    kind: Literal["vector", "tokens", "map", "dinov2"]
    pooling: Pooling
    cls: bool = False
    registers: int = 0


class Wrapped(Backbone):
    """A module of the user, its output taken apart by a layout. It has one block, or none: its output."""

    def __init__(self, card: BackboneCard, module: nn.Module, layout: Layout) -> None:
        super().__init__(card, num_blocks=int(layout.kind != "vector"))
        self.module = module
        self.layout = layout
        self.configuration = _configuration(module, layout)

    def forget_hashes(self) -> None:
        """Have all hashes computed anew: the module may have changed since."""
        super().forget_hashes()
        self.configuration = _configuration(self.module, self.layout)

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:  # noqa: ARG002
        """Run the module; its output is used as it is, with and without ``norm``."""
        output, given = _run(self.module, images, self.card.name)
        tokens = _tokens(output, self.layout, self.patch_grid(images), self.card.name)
        pooled = _pooled(given, tokens, self.layout)
        return Features(pooled, (tokens,) * len(blocks) if tokens else ())


def wrap(
    module: nn.Module,
    *,
    patch_size: int,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    image_size: int,
    cls: bool | None = None,
    registers: int = 0,
    pooling: Pooling | None = None,
    name: str = "",
    **card: Any,
) -> Backbone:
    """Return a backbone that runs ``module``; the module itself, not a copy.

    Its output on normalised images ``[b 3 H W]`` may be a vector ``[b d]``, a sequence of tokens
    ``[b n d]``, a feature map ``[b d h w]``, DINOv2's dictionary (``x_norm_clstoken``,
    ``x_norm_patchtokens``, ``x_norm_regtokens``), or an output of transformers (``last_hidden_state``). Of a
    model of timm, ``forward_features`` and ``forward_head`` without the classifier are called.

    Args:
        module: what takes images and returns features.
        patch_size: pixels of a patch's side, or of a step of the feature map.
        mean: of RGB in [0, 1] that the module expects: one number, or three.
        std: the standard deviation.
        image_size: side of the square that the module was made for.
        cls: whether a sequence begins with a class token. It must be stated where there are more tokens than
            patches, and timm or DINOv2's names do not tell.
        registers: how many register tokens follow the class token.
        pooling: the model's own descriptor: ``cls``, ``mean`` (of patches), or ``given``, as the module
            returns one (``pooler_output``, ``forward_head``). By default what a model of timm gives, else the
            class token, else what is given, else the mean.
        name: how tables call it; by default its class.
        card: further fields of `BackboneCard`, such as ``resize``, ``interpolation`` or ``supervision``.

    Raises:
        ConfigError: the output is none of these, or what it means is not stated.
        ContractError: the module raises an error.
    """
    name = name or type(module).__name__
    module.eval()
    grid = (image_size // patch_size, image_size // patch_size)
    device = next(iter([*module.parameters(), *module.buffers()]), torch.zeros(())).device
    black = torch.zeros(1, 3, image_size, image_size, device=device)
    with torch.no_grad():
        output, given = _run(module, black, name)
    layout = _layout(module, output, given, grid, name, cls=cls, registers=registers, pooling=pooling)
    tokens = _tokens(output, layout, grid, name)
    pooled = _pooled(given, tokens, layout)
    unknown: dict[str, Any] = {"supervision": "unknown"}
    described = BackboneCard(
        name=name,
        loader="wrapped",
        arch=type(module).__qualname__,
        embed_dim=(pooled if tokens is None else tokens.patches).shape[-1],
        pooled_dim=pooled.shape[-1],
        patch_size=patch_size,
        image_size=image_size,
        mean=_three(mean),
        std=_three(std),
        pooling=layout.pooling,
        **(unknown | card),
    )
    return Wrapped(described, module, layout).to(device)


def _configuration(module: nn.Module, layout: Layout) -> dict[str, Any]:
    return {
        "code": code_sha256(module),
        "attributes": attributes_sha256(module),
        "layout": asdict(layout),
    }


def _three(value: float | Sequence[float]) -> tuple[float, float, float]:
    numbers = (value,) * 3 if isinstance(value, int | float) else tuple(map(float, value))
    if len(numbers) != 3:
        raise ConfigError(f"mean and std are of RGB: one number or three, not {len(numbers)}")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def _run(module: nn.Module, images: Tensor, name: str) -> tuple[Any, Tensor | None]:
    """Return the output of the module, and the vector that it gives beside tokens or a map."""
    with faults_of(name, foreign=True, passing=(torch.OutOfMemoryError,)):
        if _of_timm(module):
            timms: Any = module
            output: Any = timms.forward_features(images)
            return output, timms.forward_head(output, pre_logits=True)
        output = module(images)
    hidden: Any = getattr(output, "last_hidden_state", None)
    if hidden is not None:
        return hidden, getattr(output, "pooler_output", None)
    return output, output if isinstance(output, Tensor) and output.ndim == 2 else None


def _of_timm(module: Any) -> bool:
    return callable(getattr(module, "forward_features", None)) and callable(
        getattr(module, "forward_head", None)
    )


def _layout(
    module: Any,
    output: Any,
    given: Tensor | None,
    grid: tuple[int, int],
    name: str,
    *,
    cls: bool | None,
    registers: int,
    pooling: Pooling | None,
) -> Layout:
    kind = _kind(output, name)
    if kind == "tokens":
        if cls is None and _of_timm(module):
            prefix = int(module.num_prefix_tokens)
            cls = getattr(module, "cls_token", None) is not None
            registers = prefix - int(cls)
        if cls is None and output.shape[1] == grid[0] * grid[1]:
            cls = False
        if cls is None:
            raise ConfigError(
                f"{name}: {output.shape[1]} tokens for {grid[0]}x{grid[1]} patches; state what comes first: "
                f"{_LINE}"
            )
    if kind == "vector" and pooling is None:
        _refuse_logits(module, output.shape[1], name)
    has_cls = kind == "dinov2" or (kind == "tokens" and bool(cls))
    given_first = _of_timm(module) or not has_cls
    usual: Pooling = "given" if given is not None and given_first else "cls" if has_cls else "mean"
    layout = Layout(kind, pooling or usual, has_cls, registers if kind == "tokens" else 0)
    if (layout.pooling == "given" and given is None) or (layout.pooling == "cls" and not has_cls):
        raise ConfigError(f"{name}: pooling={layout.pooling}, but its output has no such vector")
    if layout.pooling == "mean" and kind == "vector":
        raise ConfigError(f"{name}: pooling=mean, but its output is one vector")
    return layout


def _refuse_logits(module: nn.Module, width: int, name: str) -> None:
    """Refuse a vector of a layer that is called as classifiers are, unless it is asked for."""
    for place, part in module.named_modules():
        last = place.rpartition(".")[2]
        linear = isinstance(part, nn.Linear) and part.out_features == width
        if linear and {"fc", "classifier", "head", "heads"} & {last, place.partition(".")[0]}:
            raise ConfigError(
                f"{name}: its output may be the logits of {place}; put torch.nn.Identity() in its place, or "
                "state pooling='given' if these are the features"
            )


def _kind(output: Any, name: str) -> Literal["vector", "tokens", "map", "dinov2"]:
    if isinstance(output, Mapping) and {"x_norm_clstoken", "x_norm_patchtokens"} <= output.keys():
        return "dinov2"
    kinds: dict[int, Literal["vector", "tokens", "map"]] = {2: "vector", 3: "tokens", 4: "map"}
    if isinstance(output, Tensor) and output.ndim in kinds:
        return kinds[output.ndim]
    shape = f" of shape {tuple(output.shape)}" if isinstance(output, Tensor) else ""
    raise ConfigError(
        f"{name}: its output is a {type(output).__name__}{shape}; expected a vector [b d], tokens [b n d], a "
        "map [b d h w], DINOv2's dictionary or last_hidden_state; put a module around it that returns one"
    )


def _tokens(output: Any, layout: Layout, grid: tuple[int, int], name: str) -> Tokens | None:
    if layout.kind == "vector":
        return None
    if layout.kind == "dinov2":
        registers = output.get("x_norm_regtokens")
        patches = output["x_norm_patchtokens"]
        _refuse_grid(patches.shape[1], grid, name)
        registers = None if registers is None or not registers.shape[1] else registers
        return Tokens(patches.unflatten(1, grid), output["x_norm_clstoken"], registers)
    if layout.kind == "tokens":
        prefix = int(layout.cls) + layout.registers
        _refuse_grid(output.shape[1] - prefix, grid, name)
        return Tokens.from_sequence(output, grid, has_cls=layout.cls, registers=layout.registers)
    if tuple(output.shape[2:]) != grid:
        raise ConfigError(
            f"{name}: a map of {' x '.join(map(str, output.shape[1:]))}, expected channels x {grid[0]} x "
            f"{grid[1]}; state the patch_size that fits, and put channels first"
        )
    return Tokens(output.permute(0, 2, 3, 1))


def _refuse_grid(patches: int, grid: tuple[int, int], name: str) -> None:
    if patches != grid[0] * grid[1]:
        raise ConfigError(
            f"{name}: {patches} patch tokens, expected {grid[0]}x{grid[1]}; state patch_size, image_size, "
            f"cls and registers as they are: {_LINE}"
        )


def _pooled(given: Tensor | None, tokens: Tokens | None, layout: Layout) -> Tensor:
    if layout.pooling == "given":
        if given is None:
            raise ContractError("the module gave a vector before, and none now")
        return given.flatten(1)
    assert tokens is not None
    if layout.pooling == "cls":
        assert tokens.cls is not None
        return tokens.cls
    return tokens.patches.mean((1, 2))
