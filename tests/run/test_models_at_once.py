"""A sweep with several models in memory: the same outcomes in the same order, each image decoded once."""

import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssleval.core import BackboneCard, Context
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.core.devices import free_memory
from ssleval.errors import SslevalError, WeightsError
from ssleval.features import current_shard, decode
from ssleval.features.shard import Shard
from ssleval.results import Result
from ssleval.run import memory
from ssleval.run import sweep as sweeping
from ssleval.run.measure import silent
from ssleval.run.memory import MOST, has_room
from ssleval.run.sweep import Sweep, sweep
from tests.features.rank_threads import in_ranks

LIMIT = 16
ALIVE: "weakref.WeakSet[Backbone]" = weakref.WeakSet()
LOADED: list[int] = []
"""How many models were in memory when each was loaded, with it."""


class Shared(Backbone):
    """Linear patches, by its name; `broken` fails on images, `absent` has no weights."""

    def __init__(self, card: BackboneCard) -> None:
        super().__init__(card, num_blocks=1)
        kind = card.arch
        # Not the generator that threads share.
        generator = torch.Generator().manual_seed(sum(map(ord, kind)))
        self.embed = nn.Conv2d(3, 8, card.patch_size, card.patch_size, bias=False)
        self.embed.weight.data = torch.randn(self.embed.weight.shape, generator=generator)
        self.fails = kind == "broken"

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        if self.fails and len(images) > 1:
            raise RuntimeError("broken code")
        patches = self.embed(images).permute(0, 2, 3, 1)
        token = patches.mean((1, 2))
        return Features(token, tuple(Tokens(patches, token) for _ in blocks))


def _card(kind: str) -> BackboneCard:
    # Patches of 30 pixels do not divide the 224 of k-NN, which is refused.
    side = 30 if kind == "odd" else 32
    return BackboneCard(f"shared:{kind}", "shared", kind, embed_dim=8, patch_size=side, image_size=8 * side)


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    if card.arch == "absent":
        raise WeightsError("absent.pth: no such file")
    backbone = Shared(card)
    ALIVE.add(backbone)
    LOADED.append(len(ALIVE))
    return backbone


backbones.register("shared")(Loader(_card, _build))
QUIET: dict[str, Any] = {"note": silent}
NAMES = ("a", "absent", "b", "odd", "broken", "c")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int, int]]:
    """Count batches by side of the images, split and number."""
    counts: Counter[tuple[int, int, int]] = Counter()
    item = decode.Decoder.__getitem__

    def counting(self: decode.Decoder, index: int) -> Any:
        counts[self.geometry.fixed_size or 0, id(self.split), index] += 1
        return item(self, index)

    monkeypatch.setattr(decode.Decoder, "__getitem__", counting)
    LOADED.clear()
    return counts


def said(outcome: Result | SslevalError) -> tuple[str, ...]:
    if isinstance(outcome, Result):
        return outcome.model, outcome.task, outcome.key, str(outcome.metrics)
    return type(outcome).__name__, str(outcome)


def swept(folder: Path, at_once: int, *, names: Sequence[str] = NAMES, **more: Any) -> list[tuple[str, ...]]:
    asked = Sweep(
        ",".join(f"shared:{name}" for name in names),
        tasks="knn",
        datasets="digits",
        limit=LIMIT,
        settings=("knn.ks=5",),
        models_at_once=at_once,
    )
    context = Context("cpu", batch_size=8, num_workers=0, cache=folder / "cache", progress=False)
    return [said(one) for one in sweep(asked, context, folder / "results", **{**QUIET, **more})]


def stored(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "cache").rglob("*.npy")}


def test_outcomes_and_features_are_those_of_one_model_at_a_time(
    tmp_path: Path, decoded: Counter[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    plan = sweeping._plan

    def sized(loaded: Any, *rest: Any) -> None:
        sizes.append(len(loaded))
        plan(loaded, *rest)

    monkeypatch.setattr(sweeping, "_plan", sized)
    alone = swept(tmp_path / "one", 1)
    # What comes after an error may find its model in the traceback.
    assert LOADED[:3] == [1, 1, 1]
    singly = decoded.total()
    expected = ["shared:a", "WeightsError", "shared:b", "ConfigError", "ContractError", "shared:c"]
    assert [line[0] for line in alone] == expected
    # One that cannot be loaded takes no place.
    assert sizes == [1, 2, 1, 1, 1]
    for at_once, expected_sizes in ((2, [3, 2, 1]), (0, [6])):
        sizes.clear()
        decoded.clear()
        assert swept(tmp_path / str(at_once), at_once) == alone
        assert sizes == expected_sizes
        # A model that breaks on the first split may have begun the second.
        assert stored(tmp_path / "one").items() <= stored(tmp_path / str(at_once)).items()
        assert decoded.total() < singly


def test_each_image_is_decoded_once_for_all_models_also_by_force(
    tmp_path: Path, decoded: Counter[tuple[int, int, int]]
) -> None:
    for force in (False, True):
        decoded.clear()
        notes: list[str] = []
        lines = swept(tmp_path, 3, names=("a", "b", "c"), force=force, note=notes.append)
        assert [line[0] for line in lines] == ["shared:a", "shared:b", "shared:c"]
        # Two splits in two batches; then four images of each, for the probes of all models.
        assert decoded.total() == 2 * 2 + 2 * 4
        assert notes == [f"shared:{name}: 32 images in 4 forward passes, for 1 task" for name in "abc"]


def test_ranks_yield_what_one_process_does(tmp_path: Path) -> None:
    def work(shard: Shard) -> list[tuple[str, ...]]:
        return swept(tmp_path / "two", 0, names=("a", "b", "broken"))

    first, second = in_ranks(2, work)
    assert first == second == swept(tmp_path / "one", 1, names=("a", "b", "broken"))
    assert stored(tmp_path / "one").items() <= stored(tmp_path / "two").items()


@pytest.mark.parametrize(
    ("name", "loaded", "stated", "free", "expected"),
    [
        # ViT-S/14 has 22.06 million parameters: 88 MB, of which four must fit.
        ("dinov2_vits14", 1, 0, 360 << 20, True),
        ("dinov2_vits14", 1, 0, 330 << 20, False),
        ("random:vit_tiny", 7, 0, 1 << 40, True),
        ("random:vit_tiny", MOST, 0, 1 << 40, False),
        # Where memory is not known, one at a time.
        ("random:vit_tiny", 1, 0, 0, False),
        # Without a card, as large as the largest: 8 x 3 x 32 x 32 weights.
        ("timm:unknown", 1, 0, 4 * 4 * (8 * 3 * 32 * 32), True),
        ("timm:unknown", 1, 0, 4 * 4 * (8 * 3 * 32 * 32) - 1, False),
        ("timm:unknown", 1, 2, 0, True),
        ("timm:unknown", 2, 2, 1 << 40, False),
        ("timm:unknown", 11, 12, 0, True),
    ],
)
def test_a_model_joins_where_a_quarter_of_the_free_memory_holds_it(
    monkeypatch: pytest.MonkeyPatch, name: str, loaded: int, stated: int, free: int, expected: bool
) -> None:
    def left(device: str) -> int:
        return free

    monkeypatch.setattr(memory, "free_memory", left)
    assert has_room(name, [Shared(_card("a"))] * loaded, stated, "cpu") is expected


def test_ranks_agree_on_how_many_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(shard: Shard) -> bool:
        def free(device: str) -> int:
            return 0 if current_shard().rank else 1 << 40

        monkeypatch.setattr(memory, "free_memory", free)
        return has_room("random:vit_tiny", [Shared(_card("a"))], 0, "cpu")

    assert in_ranks(2, work) == [False, False]


def test_free_memory_is_that_of_the_machine_shared_by_the_processes_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = free_memory("cpu")
    assert alone == 0 or 1 << 26 < alone < 1 << 50
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory("cpu") <= alone // 2
    assert free_memory("mps") == 0
