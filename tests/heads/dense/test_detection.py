"""The detector's parts against torchvision's own FCOS, and against loops over cells and pixels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import generalized_box_iou, nms

from ssleval.core import Context
from ssleval.core.targets import Objects
from ssleval.heads.dense.detection import (
    Example,
    Losses,
    best_patches,
    decoded,
    detection_loss,
    detector,
    example_of,
    fit_detector,
    mask_loss,
    masks_in,
    owners,
)
from ssleval.heads.dense.grid import Fit

PLAIN = Losses(alpha=0.25, gamma=2.0, box_weight=2.0, points=0)


def example(boxes: list[list[float]], labels: list[int], points: int = 0) -> Example:
    placed = torch.tensor(boxes).reshape(-1, 4)
    return Example(placed, torch.tensor(labels, dtype=torch.int64), torch.zeros(len(labels), points, points))


def test_a_cell_belongs_to_the_smallest_box_around_its_centre() -> None:
    random = np.random.default_rng(0)
    start = random.random((6, 2)) * 0.6
    boxes = np.concatenate([start, start + 0.05 + random.random((6, 2)) * 0.35], 1)
    found = owners(torch.tensor(boxes, dtype=torch.float32), 7, 9).reshape(7, 9)
    for row in range(7):
        for column in range(9):
            x, y = (column + 0.5) / 9, (row + 0.5) / 7
            around = [
                ((right - left) * (bottom - top), place)
                for place, (left, top, right, bottom) in enumerate(boxes)
                if left < x < right and top < y < bottom
            ]
            assert int(found[row, column]) == (min(around)[1] if around else -1)
    assert (found >= 0).any()
    # A centre on the edge of a box is not inside it: no side would be left.
    assert owners(torch.tensor([[0.125, 0.0, 0.6, 1.0]]), 1, 4).tolist() == [-1, 0, -1, -1]
    assert owners(torch.zeros(0, 4), 2, 2).tolist() == [-1] * 4


def test_the_loss_is_that_of_the_papers() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 3 + 4, 4, 5, generator=generator)
    examples = [example([[0.1, 0.1, 0.7, 0.9], [0.3, 0.3, 0.6, 0.6]], [2, 0]), example([], [])]
    classes, overlaps, count = 0.0, 0.0, 0
    for image, truth in enumerate(examples):
        owner = owners(truth.boxes, 4, 5)
        for cell in range(20):
            row, column = divmod(cell, 5)
            right = int(truth.labels[owner[cell]]) if owner[cell] >= 0 else -1
            for label in range(3):
                score = torch.sigmoid(outputs[image, label, row, column])
                likely, weight = (score, 0.25) if label == right else (1 - score, 0.75)
                classes -= float(weight * (1 - likely) ** 2 * likely.log())
            if right >= 0:
                left, up, across, down = outputs[image, 3:, row, column].exp().tolist()
                box = torch.tensor(
                    [[column + 0.5 - left, row + 0.5 - up, column + 0.5 + across, row + 0.5 + down]]
                )
                true = truth.boxes[owner[cell]][None] * torch.tensor([5, 4, 5, 4])
                overlaps += 1 - float(generalized_box_iou(box, true))
                count += 1
    assert count > 3
    found = detection_loss(outputs, examples, 3, PLAIN)
    assert float(found) == pytest.approx((classes + 2 * overlaps) / count, rel=1e-5)


def test_without_objects_there_is_a_loss_of_classes_alone() -> None:
    outputs = torch.zeros(1, 2 + 4 + 2, 3, 3, requires_grad=True)
    loss = detection_loss(outputs, [example([], [], 4)], 2, replace(PLAIN, points=4))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(18 * 0.75 * 0.25 * math.log(2), rel=1e-6)
    assert outputs.grad is not None
    assert bool(outputs.grad.isfinite().all())


def test_masks_are_compared_at_points_of_their_box_in_the_map_of_their_class() -> None:
    # Maps that rise by one a cell: the value at a point is its place, less half a cell.
    across = torch.arange(8.0).expand(6, 8)
    maps = torch.stack([torch.stack([across, -across]), torch.stack([across * 0, across * 2])])
    truth = [
        example([], [], 2),
        example([[0.25, 0.25, 0.75, 0.75], [0.5, 0.25, 0.75, 0.75]], [1, 1], 2)._replace(
            masks=torch.ones(2, 2, 2)
        ),
    ]
    # Boxes from columns 2 and 4 to column 6; points at a quarter and at three quarters of them.
    places = torch.tensor([[3.0, 5.0], [4.5, 5.5]]) - 0.5
    expected = -torch.nn.functional.logsigmoid(2 * places).mean()
    assert float(mask_loss(maps, truth, 2)) == pytest.approx(float(expected), rel=1e-5)


def test_examples_are_objects_that_count_with_the_points_of_their_masks() -> None:
    masks = np.zeros((3, 12, 20), bool)
    masks[0, 2:10, 4:16] = True
    masks[0, 2:6, 4:10] = False
    masks[1:, 0:2, 0:2] = True
    flags = np.array([False, True, False])
    objects = Objects.of_masks(masks, np.array([1, 0, 0]), flags)._replace(
        crowd=np.array([False, False, True])
    )
    assert objects.boxes[0].tolist() == [4, 2, 16, 10]
    found = example_of(objects, 4)
    assert found.labels.tolist() == [1]
    torch.testing.assert_close(found.boxes, torch.tensor([[0.2, 1 / 6, 0.8, 5 / 6]]))
    assert found.masks[0].tolist() == [[0, 0, 1, 1]] * 2 + [[1, 1, 1, 1]] * 2
    beyond = objects._replace(boxes=objects.boxes + np.array([-9, 0, 9, 0]))
    torch.testing.assert_close(example_of(beyond, 0).boxes[0, [0, 2]], torch.tensor([0.0, 1.0]))


def test_detections_are_the_surest_of_every_class_that_do_not_overlap() -> None:
    generator = torch.Generator().manual_seed(3)
    outputs = torch.randn(2 + 4, 5, 6, generator=generator)
    found = decoded(outputs, 2, threshold=0.3, nms=0.4, most=1000)
    ys, xs = (
        part.flatten() + 0.5 for part in torch.meshgrid(torch.arange(5), torch.arange(6), indexing="ij")
    )
    left, up, right, down = outputs[2:].flatten(1).exp()
    corners = [(xs - left) / 6, (ys - up) / 5, (xs + right) / 6, (ys + down) / 5]
    boxes = torch.stack(corners, 1).clamp(0, 1)
    expected: list[tuple[float, int, list[float]]] = []
    for label in range(2):
        scores = outputs[label].flatten().sigmoid()
        sure = torch.where(scores > 0.3)[0]
        kept = sure[nms(boxes[sure], scores[sure], 0.4)]
        expected += [(float(scores[place]), label, boxes[place].tolist()) for place in kept]
    expected.sort(reverse=True)
    assert [label for _, label, _ in expected] == found.labels.tolist()
    np.testing.assert_allclose([score for score, _, _ in expected], found.scores, rtol=1e-6)
    np.testing.assert_allclose([box for _, _, box in expected], found.boxes, atol=1e-6)
    few = decoded(outputs, 2, threshold=0.3, nms=0.4, most=3)
    assert few.scores.tolist() == found.scores[:3].tolist()
    nothing = decoded(outputs, 2, threshold=1.0, nms=0.4, most=3)
    assert nothing.boxes.shape == (0, 4)


def test_masks_are_maps_inside_boxes() -> None:
    maps = torch.zeros(2, 4, 4)
    maps[0] = -1
    maps[1, :, 2:] = 1
    maps[1, :, :2] = -1
    boxes = np.array([[2.0, 0.0, 7.0, 3.0], [0.0, 0.0, 8.0, 8.0]])
    first, second = masks_in(maps, boxes, np.array([1, 0]), (8, 8))
    expected = np.zeros((8, 8), bool)
    expected[:3, 4:7] = True
    np.testing.assert_array_equal(first, expected)
    assert not second.any()


def test_masks_agree_with_those_that_torchvision_pastes() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.nn.functional.avg_pool2d(torch.randn(1, 1, 12, 12, generator=generator), 3, 1, 1)
    box = np.array([[10.0, 8.0, 74.0, 72.0]])
    (ours,) = masks_in(maps[0], box, np.array([0]), (96, 96))
    fine = torch.nn.functional.interpolate(maps, (96, 96), mode="bilinear")[:, :, 8:72, 10:74].sigmoid()
    theirs = paste_masks_in_image(fine, torch.tensor(box, dtype=torch.float32), (96, 96))[0, 0].numpy() > 0.5
    # They paste into a box that is one pixel wider and higher.
    assert (ours != theirs).mean() < 0.02
    assert 0.1 < ours.sum() / 64**2 < 0.9


def test_the_best_union_of_patches_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    for _ in range(8):
        mask = np.zeros((9, 12), bool)
        mask[1:8, 2:10] = random.random((7, 8)) < random.random()
        mask[[1, 7], [2, 9]] = True
        box = Objects.of_masks(mask[None], np.zeros(1, int), np.zeros(1, bool)).boxes
        (score,), (union,) = best_patches(mask[None], box, 3, 4)
        window = np.zeros_like(mask)
        window[1:8, 2:10] = True
        best = 0.0
        for chosen in range(1, 1 << 12):
            bits = (chosen >> np.arange(12) & 1).reshape(3, 4).astype(bool)
            taken = bits.repeat(3, 0).repeat(3, 1) & window
            best = max(best, (taken & mask).sum() / (taken | mask).sum())
        assert score == pytest.approx(best)
        assert (union & mask).sum() / (union | mask).sum() == pytest.approx(best)


def test_scores_begin_at_the_prior() -> None:
    head = detector(6, 3, 0.01, masks=True, seed=0)
    outputs = head.eval()(torch.zeros(1, 2, 2, 6))
    assert outputs.shape == (1, 10, 2, 2)
    torch.testing.assert_close(outputs[:, :3].sigmoid(), torch.full((1, 3, 2, 2), 0.01))
    assert detector(6, 3, 0.01, masks=False, seed=0).linear.out_features == 7


def test_a_head_is_fitted_on_what_its_images_hold() -> None:
    """A thing of one patch whose token says so is found, in its class."""
    random = np.random.default_rng(0)
    corners = random.integers(0, 6, (40, 2))
    labels = random.integers(0, 2, 40)
    tokens = 0.1 * random.standard_normal((40, 8, 8, 4)).astype(np.float32)
    for image, ((row, column), label) in enumerate(zip(corners, labels, strict=True)):
        # Which of its four patches it is tells how far the sides are.
        for down in range(2):
            for across in range(2):
                tokens[image, row + down, column + across] += [1 - label, label, across * 2 - 1, down * 2 - 1]

    def objects(image: int) -> Objects:
        row, column = corners[image] * 4.0
        box = np.array([[column, row, column + 8, row + 8]])
        flags = np.zeros(1, bool)
        return Objects((32, 32), box, labels[image : image + 1], flags, flags)

    settings = Fit(150, 8, 0.05, 0.0, warmup=10)
    head = fit_detector(
        lambda rows: torch.from_numpy(tokens[rows]),
        objects,
        32,
        2,
        settings,
        PLAIN,
        0.01,
        Context(progress=False),
    )
    right = 0
    for image in range(32, 40):
        with torch.no_grad():
            found = decoded(head(torch.from_numpy(tokens[image][None]))[0], 2, 0.05, 0.5, 100)
        box = torch.from_numpy(objects(image).boxes).float() / 32
        overlap = float(generalized_box_iou(found.boxes[:1], box)) if len(found.boxes) else 0.0
        right += overlap > 0.7 and int(found.labels[0]) == labels[image]
    assert right == 8
