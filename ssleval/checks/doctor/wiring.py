"""Checks of the forward pass on synthetic images: mode, tokens, pooling, patch order, batches, precision."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from ssleval.checks.doctor.finding import Finding
from ssleval.core import Context, Readout
from ssleval.core.backbone import Backbone
from ssleval.core.text import some
from ssleval.errors import ConfigError, SslevalError
from ssleval.features import Live
from ssleval.heads.dense.grid import resized

USUAL = 224
"""Pixels of the published evaluations, whatever the size that a model was made for."""
_ROUNDING = 1e-3
"""Largest relative difference that another order of float32 sums explains, also in deep models."""
_AGREEMENT = 0.99
"""Smallest cosine between a vector in float32 and the same vector in half precision."""


def side_of(backbone: Backbone) -> int:
    """Return the side of images to check a model with: its own, or 224 pixels where it takes these faster.

    A model made for larger images is published on 224 pixels too, its position embedding interpolated.
    """
    own = backbone.card.native_geometry().fixed_size
    assert own is not None
    if own <= USUAL or USUAL % backbone.card.patch_size:
        return own
    try:
        backbone(torch.zeros(1, 3, USUAL, USUAL, device=backbone.mean.device))
    except (SslevalError, RuntimeError, ValueError, AssertionError):
        # A model of one size may say so in any way.
        return own
    return USUAL


def probes(backbone: Backbone, count: int, side: int = 0) -> Float[Tensor, "b 3 s s"]:
    """Return smooth seeded noise in [0, 1] on the model's device; a side of 0 is that of `side_of`."""
    side = side or side_of(backbone)
    coarse = torch.rand(count, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    return resized(coarse, (side, side)).clamp(0, 1).to(backbone.mean.device)


def tokens(backbone: Backbone) -> Finding:
    """Compare the tokens of the last block with the patch grid, also of an image that is not square."""
    card = backbone.card
    images = probes(backbone, 2, card.native_geometry().fixed_size or 0)
    last = backbone(images, (-1,)).blocks[0]
    try:
        backbone(functional.pad(images[:1], (0, card.patch_size, 0, 0), mode="replicate"), (-1,))
        sizes = "other sizes and aspects too"
    except ConfigError:
        sizes = "this size only"
    h, w = last.patches.shape[1:3]
    prefix = "class token" if last.cls is not None else "no class token"
    prefix += f", {0 if last.registers is None else last.registers.shape[1]} registers"
    return Finding("pass", f"{h}x{w} patches of {card.patch_size} pixels, {prefix}; {sizes}")


def pooling(backbone: Backbone) -> Finding:
    """Compare ``pooled`` with the tokens that it is made of according to the card."""
    kind = backbone.card.pooling
    features = backbone(probes(backbone, 2), (-1,))
    last = features.blocks[0]
    expected = last.cls if kind == "cls" else last.patches.mean((1, 2)) if kind == "mean" else None
    if expected is None or expected.shape != features.pooled.shape:
        return Finding("skip", f"pooled is {kind!r}, which is not made of tokens alone")
    gap = _gap(features.pooled, expected)
    token = "class token" if kind == "cls" else "mean patch"
    if gap <= _ROUNDING:
        return Finding("pass", f"pooled is the last block's {token} after the final norm")
    evidence = f"pooled differs from the last block's {token} by {gap:.1e} of its norm"
    advice = "check the final norm, and that token 0 is the class token; or correct `pooling` on the card"
    # The norm of a mean is not the mean of normalised patches, and some models rightly have the former.
    return Finding("fail" if kind == "cls" else "warn", evidence, advice)


def patch_order(backbone: Backbone) -> Finding:
    """Change one patch of an image after another: the token at its place must change most.

    Brightened patches of one image show that in most models. One that lets all tokens look at a bright patch
    is asked again with patches of other images, over several images.
    """
    finding = _brightened(backbone)
    return _exchanged(backbone) or finding if finding.status == "fail" else finding


def _brightened(backbone: Backbone) -> Finding:
    size, image = backbone.card.patch_size, probes(backbone, 1) * 0.5
    # The first block has mixed patches least; a convolutional network blurs by a patch or so.
    block, reach = (0, 0) if backbone.num_blocks > 1 else (-1, 1)
    plain = backbone(image, (block,)).blocks[0].patches[0]
    h, w = plain.shape[:2]
    for row, column in ((0, w - 1), (h - 1, 0), (h // 3, w - 1 - w // 4)):
        lit = image.clone()
        lit[..., row * size : (row + 1) * size, column * size : (column + 1) * size] = 1
        change = (backbone(lit, (block,)).blocks[0].patches[0] - plain).norm(dim=2)
        most = divmod(int(change.argmax()), w)
        if max(abs(most[0] - row), abs(most[1] - column)) > reach or not change.max() > 0:
            place = f"row {row}, column {column} moves row {most[0]}, column {most[1]} most"
            advice = "return patches row by row, [b h w d], without class token and registers before them"
            return Finding("fail", f"a bright patch at {place}", advice)
    return Finding("pass", f"a bright patch changes its own token most, in a {h}x{w} grid")


def _exchanged(backbone: Backbone) -> Finding | None:
    """Return that patches, exchanged for those of another image, go best with their own tokens; None if not.

    That is, of all ways to give each patch a token of its own. Moves are over several images, and relative to
    what a token moves at all: some tokens always do.
    """
    size, images, block = backbone.card.patch_size, probes(backbone, 8) * 0.5, min(0, backbone.num_blocks - 2)
    plain = backbone(images, (block,)).blocks[0].patches
    h, w = plain.shape[1:3]
    places = sorted({*range(0, h * w, -(-h * w // 16)), w - 1, (h - 1) * w, (h // 3) * w + w - 1 - w // 4})
    moves: list[Tensor] = []
    for row, column in (divmod(place, w) for place in places):
        other = images.clone()
        patch = other[..., row * size : (row + 1) * size, column * size : (column + 1) * size]
        patch.copy_(patch.roll(1, 0))
        change = (backbone(other, (block,)).blocks[0].patches - plain).square().sum(dim=3)
        moves.append(change.mean(dim=0).sqrt().flatten())
    moved = torch.stack(moves)
    relative = (moved / moved.mean(dim=0).clamp_min(1e-12)).clamp_min(1e-12).log()
    best = linear_sum_assignment(relative.cpu().numpy(), maximize=True)[1].tolist()
    if best != places or not (relative[range(len(places)), places] > 0).all():
        return None
    return Finding("pass", f"{len(places)} patches go best with their own tokens, in a {h}x{w} grid")


def mode(backbone: Backbone) -> Finding:
    """Look for layers in training mode during a forward pass, and for buffers that it changes."""
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    backbone(probes(backbone, 2))
    training = [name or "the model" for name, module in backbone.named_modules() if module.training]
    changed = [name for name, buffer in backbone.named_buffers() if not torch.equal(buffer, before[name])]
    if training or changed:
        which = f"in training mode: {some(training)}" if training else f"changed by it: {some(changed)}"
        advice = "never switch to train() in extract; dropout and batch statistics change features"
        return Finding("fail", f"after a forward pass, {which}", advice)
    return Finding("pass", "no layer in training mode, no statistic changed by a forward pass")


def determinism(backbone: Backbone) -> Finding:
    """Compare two forward passes of the same images."""
    images = probes(backbone, 2)
    gap = _gap(backbone(images).pooled, backbone(images).pooled)
    if gap == 0:
        return Finding("pass", "two forward passes agree bit for bit")
    evidence = f"two forward passes of one batch differ by {gap:.1e} of the feature norm"
    advice = "look for dropout, random masking or random numbers in extract"
    return Finding("warn" if gap <= _ROUNDING else "fail", evidence, advice)


def batches(backbone: Backbone) -> Finding:
    """Compare single images with the same images in a batch."""
    images = probes(backbone, 3)
    together = backbone(images, (-1,))
    alone = [backbone(image[None], (-1,)) for image in images]
    pooled = torch.cat([features.pooled for features in alone])
    patches = torch.cat([features.blocks[0].patches for features in alone])
    gap = max(_gap(together.pooled, pooled), _gap(together.blocks[0].patches, patches))
    if gap <= _ROUNDING:
        return Finding("pass", f"an image alone and in a batch agree (difference {gap:.0e})")
    evidence = f"an image alone and in a batch differ by {gap:.1e} of the feature norm"
    return Finding("fail", evidence, "look for batch statistics, or a reshape that mixes images")


CHECKS: Mapping[str, Callable[[Backbone], Finding]] = {
    check.__name__.replace("_", " "): check
    for check in (tokens, pooling, patch_order, mode, determinism, batches)
}
"""Checks that need nothing but the model, in the order they are run."""


def precision(backbone: Backbone, context: Context) -> Finding:
    """Look for values that are not finite, and compare half precision with float32."""
    pixels = (probes(backbone, 2) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    vectors: dict[str, Tensor] = {}
    for name in dict.fromkeys(("fp32", context.precision, "bf16")):
        lowered = Context(device=context.device, precision=name, progress=False)
        vectors[name] = Live(backbone, lowered).read(pixels, (Readout("pooled"),))[Readout("pooled")].float()
    broken = [name for name, vector in vectors.items() if not bool(vector.isfinite().all())]
    full = vectors.pop("fp32")
    cosines = {n: float(functional.cosine_similarity(full, v).min()) for n, v in vectors.items()}
    off = [name for name, cosine in cosines.items() if not cosine >= _AGREEMENT]
    shown = ", ".join(f"{name} {cosine:.4f}" for name, cosine in cosines.items())
    evidence = f"features finite; cosine to float32: {shown}"
    if not broken and not off:
        return Finding("pass", evidence)
    if broken:
        evidence = f"features that are not finite in {', '.join(broken)}"
    requested = {"fp32", context.precision} & {*broken, *off}
    advice = "check the weights" if "fp32" in broken else "use --precision fp32"
    return Finding("fail" if requested else "warn", evidence, advice)


def _gap(features: Tensor, reference: Tensor) -> float:
    """Return the largest difference of two vectors, relative to the norm of the second."""
    norms = reference.flatten(1).norm(dim=1).clamp_min(1e-12)
    gap = (features - reference).flatten(1).norm(dim=1) / norms
    return float(gap.nan_to_num(torch.inf).max())
