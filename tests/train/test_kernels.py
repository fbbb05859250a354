"""How many kernels a step would launch on an accelerator, and how many copies its views take.

Counted as calls of operators that compute something. A GPU launches one kernel or a few for each, which
takes longer than many of them run. Bounds are a tenth above what was counted when they were set.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ssleval.errors import ConfigError
from ssleval.train.ahead import made_ahead
from ssleval.train.config import read_config
from ssleval.train.kernels import rounded_products
from ssleval.train.learner import Learner
from ssleval.train.schedules import rates
from ssleval.train.views import Views, make_views

SETTINGS = (
    "model.arch=vit_tiny", "model.dim=48", "model.depth=12", "model.heads=6", "model.patch_size=16",
    "views.global_size=64", "views.local_size=32", "views.local_crops=8", "head.prototypes=64",
    "head.hidden=32", "head.bottleneck=16", "run.batch_size=8", "run.precision=bf16",
)  # fmt: skip
"""Narrow, but with as many blocks, heads and crops as a ViT-S/16 has."""
_NOTHING = ("aten.empty", "aten.detach", "aten.lift_fresh", "prim.", "profiler.")


class Calls(TorchDispatchMode):
    """Counts operators that compute, and copies from the processor to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        done = func(*args, **(kwargs or {}))
        arguments = func._schema.arguments
        is_view = any(one.alias_info is not None and not one.alias_info.is_write for one in arguments)
        if not is_view and not str(func).startswith(_NOTHING):
            self.counts[str(func)] += 1
        first = args[0] if args else None
        if isinstance(first, Tensor) and isinstance(done, Tensor):
            self.copies += first.device.type == "cpu" and done.device.type != "cpu"
        return done

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def images(sizes: Sequence[int]) -> list[np.ndarray]:
    return [np.full((side, 96, 3), 90, np.uint8) for side in sizes]


def made(sizes: Sequence[int], device: str) -> Views:
    config = read_config("dino", SETTINGS)
    return make_views(images(sizes), config.views, seed=0, step=0, first=0, total=8, device=device)


@pytest.mark.parametrize(
    ("sizes", "launches"), [([80] * 8, 740), ([80 + 130 * index for index in range(8)], 1870)]
)
def test_views_take_four_copies_whatever_the_sizes_of_the_images(sizes: list[int], launches: int) -> None:
    with Calls() as calls:
        made(sizes, "meta")
    # Decoded pixels, boxes, and the colours of global and of local crops; once, the means of the channels.
    assert 4 <= calls.copies <= 5
    assert calls.total <= launches


@pytest.fixture(autouse=True)
def attention_of_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fuse attention in bfloat16, which is written out on a CPU alone."""
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr("ssleval.backbones.vit._explicit_attention", fused)


def counted(*settings: str) -> Calls:
    config = read_config("dino", [*SETTINGS, *settings])
    learner, views = Learner(config, torch.device("cpu")), made([80] * 8, "cpu")
    now = rates(config, 3, 10)
    learner.step(views, None, now, watched=False)
    with Calls() as calls:
        learner.step(views, None, now, watched=False)
    return calls


def test_a_step_launches_few_kernels_and_draws_stochastic_depth_once_a_pass() -> None:
    dropping, plain = counted(), counted("model.drop_path=0")
    assert dropping.counts["aten.rand.default"] == 2
    # One multiply-add for each branch of both passes, and what follows from it in the backward pass.
    assert dropping.counts["aten.addcmul.default"] == 2 * 2 * 12
    assert dropping.total <= 2080
    assert plain.total <= 1900
    # Losses take one call for each of the two global crops, and one for all local ones.
    assert plain.counts["aten.softmax.int_out"] == 3


def test_crops_in_one_pass_launch_fewer_kernels() -> None:
    assert counted("run.pack=true").total <= 0.8 * counted().total


@pytest.mark.parametrize("setting", ["run.pack=true", "run.gradient_checkpointing=true"])
@pytest.mark.parametrize("recipe", ["dinov2_short", "lejepa"])
def test_how_a_transformer_is_passed_changes_no_loss(recipe: str, setting: str) -> None:
    def losses(*settings: str) -> list[Tensor]:
        small = [one for one in SETTINGS if recipe != "lejepa" or not one.startswith("head.")]
        config = read_config(recipe, [*small, "model.registers=1", "run.precision=fp32", *settings])
        learner, views = Learner(config, torch.device("cpu")), made([80] * 8, "cpu")
        masks = torch.arange(16 * 16).view(16, 16) % 3 == 0 if recipe == "dinov2_short" else None
        found: list[Tensor] = []
        for step in range(2):
            torch.manual_seed(step)
            found += learner.step(views, masks, rates(config, 3 + step, 10), watched=False).values()
        return found

    torch.testing.assert_close(losses(setting), losses(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["run.pack=true", "run.compile=true"], "leave run.pack out"),
        (["run.pack=true", "views.local_crops=0"], "no local ones; leave it out"),
        (["model.arch=timm:resnet18", "model.drop_path=0", "run.pack=true"], "--set run.pack=False"),
        (
            ["model.arch=timm:resnet18", "model.drop_path=0", "run.gradient_checkpointing=true"],
            "--set run.gradient_checkpointing=False",
        ),
    ],
)
def test_settings_that_a_network_cannot_follow_are_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_config("dino", settings)


def test_one_crop_cannot_be_packed() -> None:
    with pytest.raises(ConfigError, match="joins crops of two sizes"):
        read_config("mae", ["run.pack=true"])


@pytest.mark.parametrize(("tf32", "precision"), [(True, "high"), (False, "highest")])
def test_products_are_rounded_within_a_step_only(tf32: bool, precision: str) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with rounded_products(torch.device("cuda"), tf32=tf32):
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 == tf32
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    with rounded_products(torch.device("cpu"), tf32=True):
        assert torch.get_float32_matmul_precision() == before[0]


def test_views_are_made_when_their_step_begins() -> None:
    begun: list[int] = []

    def make(step: int) -> Views:
        begun.append(step)
        return made([80] * 8, "cpu")

    for step, _ in enumerate(made_ahead((partial(make, step) for step in range(3)), torch.device("cpu"))):
        assert begun == [*range(step + 1)]
