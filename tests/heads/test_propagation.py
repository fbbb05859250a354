from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssleval.errors import ConfigError
from ssleval.heads.propagation import Propagation, follow, harden, propagate

SETTINGS: dict[str, Any] = {"context": 2, "radius": 3, "topk": 4, "temperature": 0.1}


def clip(frames: int = 5, height: int = 11, width: int = 17, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return patch tokens of a clip that changes slowly, and soft labels of its first frame."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(height, width, 6, generator=generator)
    moving = torch.randn(frames, height, width, 6, generator=generator)
    return still + 0.7 * moving, torch.rand(height, width, 3, generator=generator).softmax(-1)


def dense(
    tokens: Tensor, first: Tensor, *, context: int, radius: int, topk: int, temperature: float
) -> list[Tensor]:
    """Follow the description of the published script: all patches against all, a mask, then the best."""
    frames, height, width, _ = tokens.shape
    flat = (tokens / tokens.norm(dim=-1, keepdim=True)).flatten(1, 2).double()
    where = torch.tensor([(y, x) for y in range(height) for x in range(width)])
    near = (where[:, None] - where[None]).abs().amax(-1) <= radius
    labels = [first.flatten(0, 1).double()]
    for now in range(1, frames):
        before = [0, *range(max(1, now - context), now)]
        affinity = torch.cat([(flat[one] @ flat[now].T / temperature).exp() * near for one in before])
        weakest = affinity.topk(topk, dim=0).values[-1]
        affinity[affinity < weakest] = 0
        affinity /= affinity.sum(dim=0)
        labels.append(affinity.T @ torch.cat([labels[one] for one in before]))
    return [one.unflatten(0, (height, width)) for one in labels[1:]]


@pytest.mark.parametrize(
    "settings",
    [{}, {"context": 0}, {"context": 7}, {"radius": 1}, {"radius": 40}, {"topk": 1}, {"temperature": 1.0}],
    ids=str,
)
def test_windows_give_what_all_pairs_give(settings: dict[str, Any]) -> None:
    tokens, first = clip()
    settings = {**SETTINGS, **settings}
    expected = dense(tokens, first, **settings)
    found = list(propagate(tokens, first, Propagation(**settings)))
    assert len(found) == len(expected) == 4
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=0)
        assert torch.equal(harden(ours, 4), harden(theirs.float(), 4))


@pytest.mark.parametrize(
    "settings", [{"context": 1}, {"radius": 2}, {"topk": 3}, {"temperature": 0.2}], ids=str
)
def test_every_setting_changes_the_answer(settings: dict[str, Any]) -> None:
    tokens, first = clip()
    before, after = (
        list(propagate(tokens, first, Propagation(**{**SETTINGS, **one})))[-1] for one in ({}, settings)
    )
    assert (before - after).abs().max() > 1e-3


def test_patches_that_tie_all_count() -> None:
    tokens = torch.ones(2, 3, 3, 4)
    first = torch.eye(9).reshape(3, 3, 9)
    (labels,) = propagate(tokens, first, Propagation(radius=5, topk=2))
    torch.testing.assert_close(labels, torch.full((3, 3, 9), 1 / 9))


def test_fewer_patches_in_the_window_than_asked_for() -> None:
    tokens, first = clip(frames=2)
    (labels,) = propagate(tokens, first, Propagation(radius=0))
    torch.testing.assert_close(labels, first)


def test_the_same_clip_twice_is_the_same_to_the_last_bit() -> None:
    tokens, first = clip()
    one, two = (torch.stack(list(propagate(tokens, first, Propagation(**SETTINGS)))) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    "settings", [{"context": -1}, {"radius": -1}, {"topk": 0}, {"temperature": 0.0}], ids=str
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Propagation(**{**SETTINGS, **settings})


def test_a_faded_object_wins_where_it_is_strongest() -> None:
    labels = torch.zeros(2, 2, 3)
    labels[..., 0] = torch.tensor([[0.9, 1.0], [1.0, 1.0]])
    labels[0, 0, 1] = 0.1
    hard = harden(labels, 4)
    # Stretched, the background is 0 and the object 1 in the first corner; the third channel is nowhere.
    assert hard.shape == (8, 8)
    assert hard[0, 0] == 1
    assert hard[7, 7] == 0
    assert set(hard.unique().tolist()) == {0, 1}


def test_labels_are_upsampled_as_by_hand() -> None:
    ramp = torch.tensor([0.0, 1.0]).repeat(1, 2, 1).permute(0, 2, 1)
    # Of a step upsampled four times, pixel centres are at -0.375, -0.125, 0.125 ... 1.375 patches.
    centres = np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)
    labels = torch.cat([1 - ramp, ramp], dim=-1)[:, :, [0, 3]]
    assert harden(labels, 4)[0].tolist() == (centres > 0.5).astype(int).tolist()


def test_a_channel_of_one_value_stays() -> None:
    labels = torch.zeros(2, 2, 2)
    labels[..., 0] = 1.0
    assert harden(labels, 2).unique().tolist() == [0]


def test_defaults_are_those_of_the_published_script() -> None:
    """eval_video_segmentation.py of facebookresearch/dino: n_last_frames, size_mask_neighborhood, topk."""
    assert Propagation() == Propagation(context=7, radius=12, topk=5, temperature=0.1)


def test_masks_are_followed_at_their_own_size() -> None:
    """In a still clip every patch keeps the class of the pixel at its centre; classes may be far apart."""
    mask = np.random.default_rng(0).choice([0, 1, 5], (13, 21)).astype(np.uint8)
    tokens, _ = clip(1, 3, 5)
    down, across = (
        np.floor((np.arange(count) + 0.5) * size / count).astype(int) for count, size in ((3, 13), (5, 21))
    )
    small = torch.from_numpy(mask[down][:, across].astype(np.int64))
    fine = harden((small[..., None] == torch.arange(6)).float(), 3).numpy()
    up, along = (
        np.floor((np.arange(size) + 0.5) * count / size).astype(int) for count, size in ((9, 13), (15, 21))
    )
    found = list(follow(tokens.expand(4, -1, -1, -1), mask, 3, Propagation(radius=0)))
    assert [one.tolist() for one in found] == [fine[up][:, along].tolist()] * 3
