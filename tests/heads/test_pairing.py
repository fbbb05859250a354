import torch

from ssleval.heads.pairing import ranks_of, ranks_of_nearest_own


def drawn(count: int, seed: int) -> torch.Tensor:
    """Small whole numbers, so that many products are equal."""
    return torch.randint(-2, 3, (count, 3), generator=torch.Generator().manual_seed(seed)).float()


def test_ranks_are_those_of_a_stable_sort() -> None:
    queries, gallery = drawn(300, 0), drawn(40, 1)
    wanted = torch.arange(300) % 40
    order = (queries @ gallery.T).sort(dim=1, descending=True, stable=True).indices
    expected = (order == wanted[:, None]).nonzero()[:, 1]
    assert ranks_of(queries, gallery, wanted).tolist() == expected.tolist()


def test_the_nearest_of_ones_own_counts() -> None:
    owners, gallery = drawn(300, 2), drawn(900, 3)
    owner = torch.arange(900) // 3
    order = (owners @ gallery.T).sort(dim=1, descending=True, stable=True).indices
    expected = (owner[order] == torch.arange(300)[:, None]).int().argmax(dim=1)
    assert ranks_of_nearest_own(owners, gallery, owner).tolist() == expected.tolist()
