import numpy as np
import pytest

from ssleval.datasets.scenes.categories import CATEGORIES, body
from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.palette import surface
from ssleval.datasets.scenes.solids import lowest
from ssleval.datasets.scenes.things import place
from ssleval.datasets.scenes.vectors import about, half_turn, multiply, turned

PAINT = surface(Draw("paint"))


@pytest.mark.parametrize("category", range(len(CATEGORIES)))
def test_bodies_fit_the_unit_sphere_and_vary(category: int) -> None:
    one, two = (body(category, Draw("body", k)) for k in range(2))

    assert one != two
    for part in one:
        # No point of a solid lies beyond its centre plus how far it reaches along that line.
        away = np.array(part.at) / max(float(np.linalg.norm(part.at)), 1e-9)
        axis = [float((away * part.turn[:, k]).sum()) * part.size[k] for k in range(3)]
        reach = -lowest(part.kind, part.shape, (-axis[0], -axis[1], -axis[2]))
        assert float(np.linalg.norm(part.at)) + reach < 1.05


@pytest.mark.parametrize("category", range(len(CATEGORIES)))
def test_things_stand_on_the_ground(category: int) -> None:
    tilt = multiply(about("x", half_turn(0.1)), about("z", half_turn(0.7)))
    thing = place(
        body(category, Draw("body")), category=category, surface=PAINT, turn=tilt, scale=0.8, at=(1.0, -2.0)
    )

    down = []
    for solid in thing.solids:
        world = np.linalg.inv(np.array(solid.inverse))[2]
        axis = (float(world[0]), float(world[1]), float(world[2]))
        down.append(solid.centre[2] + lowest(solid.kind, solid.shape, axis))
    assert min(down) == pytest.approx(0, abs=1e-9)
    assert thing.centre[:2] == (1.0, -2.0)


def test_half_turn_and_turned_are_rotations() -> None:
    angle = 0.7

    c, s = half_turn(float(np.tan(angle / 2)))

    assert (c, s) == pytest.approx((np.cos(angle), np.sin(angle)))
    start = (float(np.cos(0.3)), float(np.sin(0.3)))
    assert turned(start, float(np.tan(angle / 2))) == pytest.approx((np.cos(1.0), np.sin(1.0)))


@pytest.mark.parametrize(("axis", "fixed"), [("x", 0), ("y", 1), ("z", 2)])
def test_about_turns_the_other_two_axes_forward(axis: str, fixed: int) -> None:
    matrix = about(axis, (0.0, 1.0))

    following, last = np.eye(3)[(fixed + 1) % 3], np.eye(3)[(fixed + 2) % 3]
    np.testing.assert_allclose(matrix @ following, last)
    np.testing.assert_allclose(matrix @ np.eye(3)[fixed], np.eye(3)[fixed])
