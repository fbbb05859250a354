"""Checks of the forward pass on made-up images: mode, tokens, pooling, patch order, batches, precision."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ssleval.checks.doctor.finding import Finding
from ssleval.core import Context, Readout
from ssleval.core.backbone import Backbone
from ssleval.errors import ConfigError
from ssleval.features import Live

_ROUNDING = 1e-3
"""Largest relative difference that another order of float32 sums explains, also in deep models."""
_AGREEMENT = 0.99
"""Smallest cosine between a vector in float32 and in half precision that is still the same vector."""


def probes(backbone: Backbone, count: int) -> Float[Tensor, "b 3 s s"]:
    """Return smooth seeded noise in [0, 1] at the size the model was made for, on its device."""
    side = backbone.card.native_geometry().fixed_size
    assert side is not None
    coarse = torch.rand(count, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    smooth = functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)
    return smooth.clamp(0, 1).to(backbone.mean.device)


def mode(backbone: Backbone) -> Finding:
    """Find layers in training mode during a forward pass, and statistics that it changes."""
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(probes(backbone, 2))
    training = [name or "the model" for name, module in backbone.named_modules() if module.training]
    changed = [name for name, buffer in backbone.named_buffers() if not torch.equal(buffer, before[name])]
    if training or changed:
        what = f"in training mode: {_some(training)}" if training else f"changed by it: {_some(changed)}"
        return Finding(
            "mode",
            "fail",
            f"after a forward pass, {what}",
            "call nothing in extract that switches to train(); dropout and batch statistics move features",
        )
    return Finding("mode", "pass", "no layer in training mode, no statistic changed by a forward pass")


def determinism(backbone: Backbone) -> Finding:
    """Compare two forward passes of the same images."""
    images = probes(backbone, 2)
    gap = _gap(backbone(images).pooled, backbone(images).pooled)
    if gap == 0:
        return Finding("determinism", "pass", "two forward passes agree bit for bit")
    status = "warn" if gap <= _ROUNDING else "fail"
    return Finding(
        "determinism",
        status,
        f"two forward passes of one batch differ by {gap:.1e} of the feature norm",
        "look for dropout, random masking or random numbers in extract",
    )


def tokens(backbone: Backbone) -> Finding:
    """Compare the tokens of the last block with the patch grid, also off the square where possible."""
    card, images = backbone.card, probes(backbone, 2)
    last = backbone(images, (-1,)).blocks[0]
    try:
        backbone(functional.pad(images, (0, card.patch_size, 0, 0), mode="replicate"), (-1,))
        sizes = "other sizes and aspects too"
    except ConfigError:
        sizes = "this size only"
    h, w = last.patches.shape[1:3]
    prefix = "class token" if last.cls is not None else "no class token"
    registers = 0 if last.registers is None else last.registers.shape[1]
    evidence = f"{h}x{w} patches of {card.patch_size} pixels, {prefix}, {registers} registers; {sizes}"
    return Finding("tokens", "pass", evidence)


def pooling(backbone: Backbone) -> Finding:
    """Compare ``pooled`` with the tokens that the card says it is made of."""
    kind = backbone.card.pooling
    features = backbone(probes(backbone, 2), (-1,))
    last = features.blocks[0]
    expected = last.cls if kind == "cls" else last.patches.mean((1, 2)) if kind == "mean" else None
    if expected is None or expected.shape != features.pooled.shape:
        return Finding("pooling", "skip", f"pooled is {kind!r}, which no token gives by itself")
    gap = _gap(features.pooled, expected)
    what = "class token" if kind == "cls" else "mean patch"
    if gap <= _ROUNDING:
        return Finding("pooling", "pass", f"pooled is the last block's {what} after the final norm")
    # Models that normalise after averaging are not the mean of normalised patches, and rightly so.
    return Finding(
        "pooling",
        "fail" if kind == "cls" else "warn",
        f"pooled differs from the last block's {what} by {gap:.1e} of its norm",
        "check the final norm, and that token 0 is the class token; or correct `pooling` on the card",
    )


def patch_order(backbone: Backbone) -> Finding:
    """Brighten one patch of an image after another: the tokens that change most must be at their place."""
    card, image = backbone.card, probes(backbone, 1) * 0.5
    # The first block has mixed patches least; a convolutional network blurs by a patch or so.
    block, reach = (0, 0) if backbone.num_blocks > 1 else (-1, 1)
    plain = backbone(image, (block,)).blocks[0].patches[0]
    h, w = plain.shape[:2]
    for row, column in ((0, w - 1), (h - 1, 0), (h // 3, w - 1 - w // 4)):
        lit = image.clone()
        top, left = row * card.patch_size, column * card.patch_size
        lit[..., top : top + card.patch_size, left : left + card.patch_size] = 1
        moved = (backbone(lit, (block,)).blocks[0].patches[0] - plain).norm(dim=2)
        found = divmod(int(moved.argmax()), w)
        if max(abs(found[0] - row), abs(found[1] - column)) > reach or not moved.max() > 0:
            return Finding(
                "patch order",
                "fail",
                f"a bright patch at row {row}, column {column} moves row {found[0]}, column {found[1]} most",
                "return patches row by row, [b h w d], without class token and registers before them",
            )
    return Finding("patch order", "pass", f"a bright patch changes its own token most, in a {h}x{w} grid")


def batches(backbone: Backbone) -> Finding:
    """Compare images alone with the same images in a batch."""
    images = probes(backbone, 3)
    together = backbone(images, (-1,))
    alone = [backbone(image[None], (-1,)) for image in images]
    gap = max(
        _gap(together.pooled, torch.cat([one.pooled for one in alone])),
        _gap(together.blocks[0].patches, torch.cat([one.blocks[0].patches for one in alone])),
    )
    if gap <= _ROUNDING:
        return Finding("batches", "pass", f"an image alone and in a batch agree (difference {gap:.0e})")
    return Finding(
        "batches",
        "fail",
        f"an image alone and in a batch differ by {gap:.1e} of the feature norm",
        "look for batch statistics, or a reshape that mixes images",
    )


def precision(backbone: Backbone, context: Context) -> Finding:
    """Look for values that are not finite, and compare half precision with float32."""
    pixels = (probes(backbone, 2) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    vectors: dict[str, Tensor] = {}
    for name in dict.fromkeys(("fp32", context.precision, "bf16")):
        asked = Context(device=context.device, precision=name, progress=False)
        vectors[name] = Live(backbone, asked).read(pixels, (Readout("pooled"),))[Readout("pooled")].float()
    broken = [name for name, vector in vectors.items() if not bool(vector.isfinite().all())]
    cosines = {
        name: float(functional.cosine_similarity(vectors["fp32"], vector).min())
        for name, vector in vectors.items()
        if name != "fp32"
    }
    off = [name for name, cosine in cosines.items() if not cosine >= _AGREEMENT]
    shown = ", ".join(f"{name} {cosine:.4f}" for name, cosine in cosines.items())
    evidence = f"features finite; cosine to float32: {shown}"
    if not broken and not off:
        return Finding("precision", "pass", evidence)
    if broken:
        evidence = f"features that are not finite in {', '.join(broken)}"
    chosen = {"fp32", context.precision} & {*broken, *off}
    advice = "check the weights" if "fp32" in broken else "use --precision fp32"
    return Finding("precision", "fail" if chosen else "warn", evidence, advice)


def _gap(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two vectors, relative to the norm of the second."""
    gap = (one - other).flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1).clamp_min(1e-12)
    return float(gap.nan_to_num(torch.inf).max())


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
