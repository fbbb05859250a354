import numpy as np
import torch

from ssleval.heads.dense.depth import Bins, depth_map
from ssleval.heads.dense.grid import LinearHead
from ssleval.heads.dense.labelled import Labelled, depth_maps

BINS = Bins(0.5, 8.0, 6, 2)
GRIDS = torch.randn(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
SIZES = [(9, 12), (6, 8), (5, 5)]


def view(number: int, sizes: list[tuple[int, int]]) -> Labelled:
    grids = GRIDS[number]
    return Labelled(
        ["0", "1", "2"], lambda rows: grids[torch.from_numpy(rows)], lambda row: np.zeros(sizes[row])
    )


def test_maps_of_mirrored_images_are_turned_back_and_averaged() -> None:
    head = LinearHead(5, BINS.count, normalise=False, seed=0)
    with torch.no_grad():
        head.linear.weight.mul_(100)
        logits = [head(grids) for grids in GRIDS]
    # Only the images have targets; what stands for those of mirrored ones has another size.
    both = list(depth_maps(head, [view(0, SIZES), view(1, [(1, 1)] * 3)], BINS))
    alone = list(depth_maps(head, [view(0, SIZES)], BINS))
    for row, size in enumerate(SIZES):
        plain, mirrored = (depth_map(one[row], BINS, size).numpy() for one in logits)
        np.testing.assert_allclose(alone[row], plain, rtol=1e-5)
        np.testing.assert_allclose(both[row], (plain + np.fliplr(mirrored)) / 2, rtol=1e-5)
        assert not np.allclose(mirrored, np.fliplr(mirrored))
