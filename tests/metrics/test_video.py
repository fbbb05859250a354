import math

import numpy as np
import pytest

from ssleval.errors import ContractError
from ssleval.metrics.video import boundary, contour_f, decay, object_scores, recall, region_j


def blob(seed: int, height: int = 24, width: int = 31) -> np.ndarray:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(3):
        middle, radius = random.uniform(0, (height, width)), random.uniform(2, 9)
        mask |= (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
    return mask


def contour(mask: np.ndarray) -> set[tuple[int, int]]:
    """Pixel by pixel, as the segmentation-to-boundary-map of the Berkeley benchmark is described."""
    height, width = mask.shape
    found: set[tuple[int, int]] = set()
    for y in range(height):
        for x in range(width):
            steps = [(0, 1), (1, 0), (1, 1)]
            if y == height - 1:
                steps = [(0, 1)]
            if x == width - 1:
                steps = [] if y == height - 1 else [(1, 0)]
            if any(mask[y, x] != mask[y + down, x + right] for down, right in steps):
                found.add((y, x))
    return found


def naive_f(predicted: np.ndarray, target: np.ndarray, tolerance: float) -> float:
    """Dilate by a disk, pixel by pixel, and count what is covered."""
    radius = math.ceil(tolerance * math.sqrt(target.shape[0] ** 2 + target.shape[1] ** 2))
    reach = range(-radius, radius + 1)
    disk = [(y, x) for y in reach for x in reach if y * y + x * x <= radius * radius]

    def dilated(points: set[tuple[int, int]]) -> set[tuple[int, int]]:
        return {(y + down, x + right) for y, x in points for down, right in disk}

    ours, theirs = contour(predicted), contour(target)
    if not ours and not theirs:
        return 1.0
    precision = len(ours & dilated(theirs)) / len(ours) if ours else 1.0
    matched = len(theirs & dilated(ours)) / len(theirs) if theirs else 1.0
    return 0.0 if precision + matched == 0 else 2 * precision * matched / (precision + matched)


@pytest.mark.parametrize("seed", range(6))
def test_j_is_intersection_over_union(seed: int) -> None:
    predicted, target = blob(seed), blob(seed + 100)
    pairs = list(zip(predicted.ravel().tolist(), target.ravel().tolist(), strict=True))
    expected = sum(a and b for a, b in pairs) / sum(a or b for a, b in pairs)
    assert region_j(predicted, target) == pytest.approx(expected)
    assert region_j(target, target) == 1.0


@pytest.mark.parametrize("tolerance", [0.008, 0.03, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_f_agrees_with_dilation_pixel_by_pixel(seed: int, tolerance: float) -> None:
    predicted, target = blob(seed), blob(seed + 100)
    expected = naive_f(predicted, target, tolerance)
    assert 0 < expected < 1
    assert contour_f(predicted, target, tolerance) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_contours_are_those_of_the_berkeley_benchmark(seed: int) -> None:
    mask = blob(seed)
    assert {(int(y), int(x)) for y, x in np.argwhere(boundary(mask))} == contour(mask)


def test_empty_masks() -> None:
    empty, full, some = np.zeros((9, 9), bool), np.ones((9, 9), bool), np.eye(9, dtype=bool)
    assert region_j(empty, empty) == contour_f(empty, empty) == 1.0
    assert region_j(some, empty) == contour_f(some, empty) == contour_f(empty, some) == 0.0
    # The edge of the image is no contour: a mask of everything has none.
    assert contour_f(full, empty) == 1.0
    assert region_j(full, empty) == 0.0


def test_distance_is_measured_along_the_diagonal() -> None:
    target, moved = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    target[20:30, 20:30] = moved[22:32, 20:30] = True
    # The diagonal is 100 pixels: two of them are 0.02.
    assert contour_f(moved, target, 0.02) == 1.0
    assert contour_f(moved, target, 0.01) < 1.0


def test_recall_is_strictly_above_one_half() -> None:
    assert recall(np.array([0.5, 0.51, 1.0, 0.0])) == 0.5


def test_decay_is_first_minus_last_quarter() -> None:
    scores = np.random.default_rng(0).uniform(size=300)
    # Four quarters of 300 frames meet at frames 1, 75.75, 150.5, 225.25 and 300, rounded, from one.
    assert decay(scores) == pytest.approx(scores[:76].mean() - scores[224:].mean())
    assert decay(np.array([0.7])) == 0.0
    with pytest.raises(ContractError, match="no frames"):
        decay(np.zeros(0))


def test_every_object_is_scored_on_its_own_over_all_frames() -> None:
    targets = [np.zeros((24, 31), np.uint8) for _ in range(5)]
    masks = [mask.copy() for mask in targets]
    for frame, (target, mask) in enumerate(zip(targets, masks, strict=True)):
        target[blob(frame)], mask[blob(frame + frame // 2)] = 1, 1
        target[3:9, 20:28], mask[3 + frame : 9 + frame, 20:28] = 2, 2
    scores = dict(object_scores(iter(targets), iter([*masks, masks[0]]), [2, 1], 0.03))
    assert list(scores) == [2, 1]
    for number, found in scores.items():
        pairs = [(mask == number, target == number) for mask, target in zip(masks, targets, strict=True)]
        j = np.array([(ours & true).sum() / (ours | true).sum() for ours, true in pairs])
        f = np.array([naive_f(ours, true, 0.03) for ours, true in pairs])
        assert found == pytest.approx(
            {
                "j_and_f": (j.mean() + f.mean()) / 2,
                "j": j.mean(),
                "f": f.mean(),
                "j_recall": (j > 0.5).mean(),
                "f_recall": (f > 0.5).mean(),
                # Quarters of five frames: the first two, the last two.
                "j_decay": j[:2].mean() - j[3:].mean(),
                "f_decay": f[:2].mean() - f[3:].mean(),
            }
        )
    assert scores[1] != scores[2]
    # Without another tolerance it is DAVIS's, 0.008 of the diagonal: one pixel here.
    of_davis = dict(object_scores(targets, masks, [2]))[2]
    shifted = [naive_f(mask == 2, target == 2, 0.008) for mask, target in zip(masks, targets, strict=True)]
    assert of_davis["f"] == pytest.approx(np.mean(shifted))


def test_neighbouring_contours_match_up_to_the_radius_and_no_farther() -> None:
    for apart, radius in ((1, 1), (2, 1), (2, 2), (3, 2)):
        lines = np.zeros((2, 30, 40), bool)
        lines[0, :, :10] = lines[1, :, : 10 + apart] = True
        # The diagonal is 50 pixels.
        assert contour_f(lines[0], lines[1], radius / 50) == float(apart <= radius)
    lines = np.zeros((2, 60, 80), bool)
    # 0.008 of a diagonal of 100 pixels is one pixel.
    lines[0, :, :10] = lines[1, :, :12] = True
    assert (contour_f(lines[0], lines[1]), contour_f(lines[0], lines[0])) == (0.0, 1.0)


def test_quarters_that_end_between_frames_end_at_the_later_one() -> None:
    # Of three frames, quarters end at 1, 1.5, 2, 2.5 and 3: the first two frames, and the last.
    assert decay(np.array([1.0, 0.5, 0.25])) == 0.75 - 0.25
