"""The twenty categories: bodies that differ in their geometry alone.

Each function draws the proportions of one body, so that no two bodies of a category are alike. All categories
share one distribution of colours, textures, materials, sizes and poses.
"""

from collections.abc import Callable

from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.things import Part, centred
from ssleval.datasets.scenes.vectors import Matrix, Number, Point, about, identity


def body(category: int, draw: Draw) -> tuple[Part, ...]:
    """Return the parts of one body, inside the unit sphere, z up."""
    return centred(_BODIES[CATEGORIES[category]](draw))


def _quarter(axis: str) -> Matrix:
    return about(axis, (0.0, 1.0))


def _tube(radius: Number, half: Number, at: Point, turn: Matrix | None = None) -> Part:
    return _frustum(radius, radius, half, at, turn)


def _frustum(bottom: Number, top: Number, half: Number, at: Point, turn: Matrix | None = None) -> Part:
    # The larger radius goes into the scale, so that bounds stay tight.
    wide = max(bottom, top)
    turn = identity() if turn is None else turn
    return Part("frustum", (wide, wide, half), at, turn, (bottom / wide, top / wide))


def _round(radius: Number, at: Point) -> Part:
    return Part("sphere", (radius, radius, radius), at)


def _ball(draw: Draw) -> list[Part]:
    return [Part("sphere", (1.0, draw.uniform(0.92, 1), draw.uniform(0.88, 1)))]


def _block(draw: Draw) -> list[Part]:
    return [Part("box", (1.0, draw.uniform(0.7, 1), draw.uniform(0.5, 0.95)))]


def _cylinder(draw: Draw) -> list[Part]:
    return [_tube(1, draw.uniform(0.8, 1.6), (0, 0, 0))]


def _cone(draw: Draw) -> list[Part]:
    return [_frustum(1, 0, draw.uniform(0.9, 1.4), (0, 0, 0))]


def _pyramid(draw: Draw) -> list[Part]:
    return [Part("pyramid", (1.0, draw.uniform(0.8, 1), draw.uniform(0.7, 1.1)))]


def _ring(draw: Draw) -> list[Part]:
    turn = _quarter("x") if draw.chance(0.5) else identity()
    return [Part("torus", (1, 1, 1), turn=turn, shape=(draw.uniform(0.2, 0.38),))]


def _capsule(draw: Draw) -> list[Part]:
    half = draw.uniform(1.2, 2)
    if draw.chance(0.5):
        return [_tube(1, half, (0, 0, 0)), _round(1, (0, 0, -half)), _round(1, (0, 0, half))]
    return [_tube(1, half, (0, 0, 0), _quarter("y")), _round(1, (-half, 0, 0)), _round(1, (half, 0, 0))]


def _mug(draw: Draw) -> list[Part]:
    half, ring = draw.uniform(0.9, 1.2), draw.uniform(0.55, 0.7)
    handle = Part("torus", (ring, ring, ring), (1.05, 0, 0), _quarter("x"), (draw.uniform(0.2, 0.26),))
    lip = Part("torus", (0.9, 0.9, 0.9), (0, 0, half), shape=(0.14,))
    return [_tube(1, half, (0, 0, 0)), handle, lip]


def _legs(wide: float, deep: float, length: float, thick: float) -> list[Part]:
    return [
        Part("box", (thick, thick, length / 2), (x * (wide - thick), y * (deep - thick), -length / 2))
        for x in (-1, 1)
        for y in (-1, 1)
    ]


def _table(draw: Draw) -> list[Part]:
    wide, deep = draw.uniform(1.1, 1.5), draw.uniform(0.8, 1)
    top = Part("box", (wide, deep, 0.1), (0, 0, 0.1))
    return [top, *_legs(wide, deep, draw.uniform(1.1, 1.5), draw.uniform(0.09, 0.15))]


def _chair(draw: Draw) -> list[Part]:
    high = draw.uniform(0.65, 0.9)
    back = Part("box", (0.8, 0.1, high), (0, 0.7, high + 0.1))
    seat = Part("box", (0.8, 0.8, 0.1), (0, 0, 0.1))
    return [seat, back, *_legs(0.8, 0.8, draw.uniform(0.9, 1.2), draw.uniform(0.1, 0.16))]


def _car(draw: Draw) -> list[Part]:
    long, wheel = draw.uniform(1.7, 2.1), draw.uniform(0.38, 0.48)
    cabin = Part("box", (long * 0.5, 0.75, 0.35), (draw.uniform(-0.4, 0), 0, 0.75))
    wheels = [
        _tube(wheel, 0.14, (x * long * 0.6, y * 0.85, -0.35), _quarter("x")) for x in (-1, 1) for y in (-1, 1)
    ]
    return [Part("box", (long, 0.85, 0.4)), cabin, *wheels]


def _tree(draw: Draw) -> list[Part]:
    trunk = draw.uniform(0.6, 0.9)
    cones = [_frustum(1 - 0.22 * i, 0, 0.6, (0, 0, 0.55 + 0.62 * i)) for i in range(3)]
    return [_tube(draw.uniform(0.18, 0.28), trunk, (0, 0, -trunk)), *cones]


def _snowman(draw: Draw) -> list[Part]:
    ratio = draw.uniform(0.68, 0.78)
    middle, head = ratio, ratio * ratio
    return [
        _round(1, (0, 0, 0)),
        _round(middle, (0, 0, 0.75 * (1 + middle))),
        _round(head, (0, 0, 0.75 * (1 + 2 * middle + head))),
    ]


def _dumbbell(draw: Draw) -> list[Part]:
    half = draw.uniform(1.4, 1.9)
    bar = _tube(draw.uniform(0.2, 0.3), half, (0, 0, 0), _quarter("y"))
    return [bar, _round(0.8, (-half, 0, 0)), _round(0.8, (half, 0, 0))]


def _house(draw: Draw) -> list[Part]:
    deep, wall, roof = draw.uniform(0.9, 1.3), draw.uniform(0.5, 0.75), draw.uniform(0.4, 0.6)
    walls = Part("box", (1, deep, wall), (0, 0, 0))
    chimney = Part("box", (0.16, 0.16, roof), (0.5, deep * 0.4, wall + roof))
    return [walls, Part("roof", (1.25, deep * 1.1, roof), (0, 0, wall + roof)), chimney]


def _lamp(draw: Draw) -> list[Part]:
    pole = draw.uniform(0.9, 1.2)
    shade = _frustum(draw.uniform(0.75, 0.9), draw.uniform(0.35, 0.5), 0.45, (0, 0, pole + 0.2))
    return [_tube(0.6, 0.09, (0, 0, -pole)), _tube(0.1, pole, (0, 0, 0)), shade]


def _bottle(draw: Draw) -> list[Part]:
    half, neck = draw.uniform(0.9, 1.3), draw.uniform(0.22, 0.3)
    shoulder = _frustum(0.7, neck, 0.3, (0, 0, half + 0.3))
    return [
        _tube(0.7, half, (0, 0, 0)),
        shoulder,
        _tube(neck, 0.35, (0, 0, half + 0.9)),
        _tube(neck + 0.08, 0.1, (0, 0, half + 1.2)),
    ]


def _stairs(draw: Draw) -> list[Part]:
    wide, rise = draw.uniform(0.7, 1), draw.uniform(0.28, 0.36)
    return [
        Part("box", (0.32, wide, rise * (step + 1)), (0.64 * step, 0, rise * (step + 1))) for step in range(4)
    ]


def _arch(draw: Draw) -> list[Part]:
    high, thick, deep = draw.uniform(0.9, 1.2), draw.uniform(0.24, 0.34), draw.uniform(0.3, 0.5)
    pillars = [Part("box", (thick, deep, high), (x, 0, 0)) for x in (-0.8, 0.8)]
    return [*pillars, Part("box", (0.8 + thick + 0.15, deep, thick), (0, 0, high + thick))]


def _jack(draw: Draw) -> list[Part]:
    thick = draw.uniform(0.16, 0.24)
    bars = [_tube(thick, 1, (0, 0, 0), turn) for turn in (_quarter("x"), _quarter("y"), None)]
    ends = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
    tips = [_round(thick * 1.6, end) for end in ends]
    return [*bars, *tips]


_BODIES: dict[str, Callable[[Draw], list[Part]]] = {
    maker.__name__.removeprefix("_"): maker
    for maker in (
        _ball, _block, _cylinder, _cone, _pyramid, _ring, _capsule, _mug, _table, _chair, _car, _tree,
        _snowman, _dumbbell, _house, _lamp, _bottle, _stairs, _arch, _jack,
    )
}  # fmt: skip

CATEGORIES: tuple[str, ...] = tuple(_BODIES)
"""Class names, in label order."""
