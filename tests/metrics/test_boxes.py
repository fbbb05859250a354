import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, fbeta_score, jaccard_score
from torchvision.ops import box_iou, masks_to_boxes

from ssleval.metrics.boxes import box_overlaps, boxes_of, saliency


def test_overlaps_are_torchvision_s() -> None:
    random = np.random.default_rng(0)
    corners = random.integers(0, 50, (40, 2)).astype(float)
    boxes = np.concatenate([corners, corners + random.integers(1, 40, (40, 2))], axis=1)
    expected = box_iou(torch.from_numpy(boxes[:1]), torch.from_numpy(boxes))[0]
    assert box_overlaps(boxes[0], boxes) == pytest.approx(expected.numpy(), abs=1e-12)


def test_boxes_of_objects_end_after_their_last_pixel() -> None:
    objects = np.zeros((9, 12), np.uint8)
    objects[2:5, 3:9], objects[7, 1], objects[0] = 3, 1, 255
    theirs = masks_to_boxes(torch.from_numpy(np.stack([objects == number for number in (1, 3)])))
    assert (boxes_of(objects) == theirs.numpy() + np.array([0, 0, 1, 1])).all()
    assert boxes_of(np.zeros((3, 3), np.uint8)).shape == (0, 4)


def test_scores_of_masks_are_scikit_learn_s_and_ignored_pixels_count_nowhere() -> None:
    random = np.random.default_rng(0)
    found, true, counted = (random.random((20, 30)) < share for share in (0.4, 0.5, 0.8))
    ours = saliency(found, true, counted, 0.3)
    pair = true[counted], found[counted]
    assert ours["max_f"] == pytest.approx(fbeta_score(*pair, beta=0.3**0.5))
    assert ours["iou"] == pytest.approx(jaccard_score(*pair))
    assert ours["accuracy"] == pytest.approx(accuracy_score(*pair))
    assert saliency(found, true, counted, 1.0)["max_f"] == pytest.approx(fbeta_score(*pair, beta=1))


def test_scores_of_empty_masks() -> None:
    none, some = np.zeros((2, 2), bool), np.array([[True, False], [False, False]])
    every = ~none
    assert saliency(none, some, every, 0.3) == {"max_f": 0.0, "iou": 0.0, "accuracy": 0.75}
    assert saliency(none, none, every, 0.3) == {"max_f": 1.0, "iou": 1.0, "accuracy": 1.0}
