"""Names of attribute values, and the colours of surfaces."""

from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.things import Material, Pattern, Surface
from ssleval.datasets.scenes.vectors import Number, Point, unit

COLORS: dict[str, Point] = {
    "red": (0.62, 0.05, 0.04),
    "orange": (0.75, 0.27, 0.03),
    "yellow": (0.75, 0.60, 0.05),
    "green": (0.08, 0.38, 0.07),
    "cyan": (0.06, 0.46, 0.50),
    "blue": (0.05, 0.13, 0.60),
    "purple": (0.32, 0.07, 0.47),
    "grey": (0.40, 0.40, 0.40),
}
"""Linear RGB."""
MATERIALS: tuple[Material, ...] = ("matte", "glossy", "metal")
PATTERNS: tuple[Pattern, ...] = ("plain", "stripes", "checks", "dots", "marble", "speckle")
SIZES: dict[str, float] = {"small": 0.6, "medium": 0.85, "large": 1.2}
"""Radius of the bounding sphere in metres."""
LATTICE = 4096


def mixed(a: Point, b: Point, share: float) -> Point:
    """Return the colour with this share of ``b``."""
    x, y, z = (p + (q - p) * share for p, q in zip(a, b, strict=True))
    return (x, y, z)


def any_color(draw: Draw) -> Point:
    """Return a random colour for the ground, the sky and the light, which have no colour attribute."""
    return _dulled(draw, (0.05, 0.7), (0.3, 0.9))[1]


def surface(draw: Draw) -> Surface:
    """Return a random surface; its properties are independent of each other."""
    color, base = _dulled(draw, (0.15, 0.6), (0, 0.2))
    return _painted(draw, draw.choice(MATERIALS), color, base, (0.15, 0.45))


def ground(draw: Draw) -> Surface:
    """Return a ground of any colour, with patterns faint enough for things to stand out."""
    color, base = _dulled(draw, (0.05, 0.7), (0.3, 0.9))
    return _painted(draw, "matte", color, base, (0.03, 0.2))


def _dulled(draw: Draw, brightness: tuple[Number, Number], share: tuple[Number, Number]) -> tuple[int, Point]:
    # The index of a colour, and that colour with a share of grey of some brightness.
    color, grey = draw.below(len(COLORS)), draw.uniform(*brightness)
    return color, mixed(list(COLORS.values())[color], (grey, grey, grey), draw.uniform(*share))


def _painted(
    draw: Draw, material: Material, color: int, base: Point, contrast: tuple[float, float]
) -> Surface:
    """Return a surface of colour ``base``; the contrast of its pattern is drawn between two shares."""
    towards: Point = (0.9, 0.9, 0.9) if draw.chance(0.5) else (0.02, 0.02, 0.02)
    axis = unit((draw.uniform(-1, 1), draw.uniform(-1, 1), draw.uniform(0.2, 1)))
    accent, pattern = mixed(base, towards, draw.uniform(*contrast)), draw.choice(PATTERNS)
    period, lattice = draw.uniform(0.25, 0.6), draw.lattice(LATTICE)
    return Surface(material, color, base, accent, pattern, axis, period, lattice)
