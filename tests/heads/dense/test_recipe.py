from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ssleval.errors import ConfigError
from ssleval.heads.dense.grid import LinearHead
from ssleval.heads.dense.recipe import Choice, PaperFields, published
from ssleval.heads.dense.windows import classes_of_views


@dataclass(frozen=True, kw_only=True)
class Settings(PaperFields):
    """Those that every protocol has, beside those of the published one."""

    size: int = 0
    interpolation: Choice = "protocol"
    iterations: int = 0
    pixels: int = 0


PAPER = Settings(crop=8, stride=8, ratios=(0.5, 2.0))


def test_settings_are_those_of_the_published_configurations() -> None:
    """dinov2_vits14_ade20k_linear_config.py and dinov2_vits14_ade20k_ms_config.py."""
    lin, ms = (published(Settings(), "paper", inputs) for inputs in ("lin", "ms"))
    assert (lin.size, lin.crop, lin.ratios, lin.stride) == (512, 512, (0.5, 2.0), 341)
    assert (lin.test_ratios, lin.test_flip) == ((1.0,), "no")
    assert (ms.size, ms.crop, ms.ratios, ms.stride) == (640, 640, (1.0, 3.0), 320)
    assert (ms.test_ratios, ms.test_flip) == ((1.0, 1.32, 1.73, 2.28, 3.0), "yes")
    for one in (lin, ms):
        assert (one.interpolation, one.iterations, one.pixels) == ("bilinear", 40_000, 0)
        # The defaults of mmseg's RandomCrop, RandomFlip and PhotoMetricDistortion there.
        assert (one.cat_max_ratio, one.flip, one.distortion) == (0.75, 0.5, 0.5)


@pytest.mark.parametrize("inputs", ["lin", "ms"])
def test_the_fast_protocol_reads_none_of_them(inputs: str) -> None:
    fast = published(Settings(), "fast", inputs)
    assert fast == Settings(size=448, interpolation="bicubic", iterations=1000, pixels=2048)


def test_what_is_given_is_kept() -> None:
    given = Settings(
        crop=1, ratios=(1.0, 1.0), stride=1, test_ratios=(2.0,), test_flip="no", size=1,
        interpolation="nearest", iterations=1, pixels=1,
    )  # fmt: skip
    assert published(given, "paper", "ms") == given
    assert published(replace(given, stride=0), "paper", "ms") == replace(given, stride=320)


@pytest.mark.parametrize(
    ("change", "protocol", "words"),
    [
        ({"pixels": 1}, "paper", "pixels=1 has no effect with protocol=paper"),
        ({"stride": 0}, "paper", "windows must touch"),
        ({"stride": 9}, "paper", "stride=9 for windows of crop=8"),
        ({"ratios": (2.0, 0.5)}, "paper", "expected the smaller first"),
        ({}, "fast", "crop=8 has no effect with protocol=fast"),
    ],
    ids=str,
)
def test_settings_that_do_nothing_or_do_not_go_together_are_refused(
    change: dict[str, object], protocol: str, words: str
) -> None:
    settings = replace(PAPER, **change)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=words):
        settings.refuse_conflicts(protocol, settings.pixels, 16)


def test_settings_that_go_together_are_not_refused() -> None:
    for stride in (1, 8):
        replace(PAPER, stride=stride).refuse_conflicts("paper", 0, 16)
    Settings().refuse_conflicts("fast", 2048, 448)


def test_windows_slide_over_every_ratio_mirrored_if_so_asked() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8))
    head = LinearHead(4, 5, normalise=False, seed=0)

    def patches_of(pixels: Tensor) -> Tensor:
        """Not symmetric: the fourth channel says how far to the right a patch is."""
        means = avg_pool2d(pixels - 0.5, 2).permute(0, 2, 3, 1)
        right = torch.linspace(-0.3, 0.3, means.shape[2]).expand(*means.shape[:3]).unsqueeze(3)
        return torch.cat([means, right], dim=3)

    def expected(shorts: list[int], *, mirrored: bool) -> list[list[int]]:
        found = classes_of_views(
            lambda pixels: head(patches_of(pixels)), image, (20, 30), shorts=shorts, mirrored=mirrored,
            crop=8, stride=8, interpolation="bilinear", device="cpu",
        )  # fmt: skip
        return found.tolist()

    for flip, mirrored in (("yes", True), ("no", False)):
        settings = replace(PAPER, test_ratios=(1.0, 1.32), test_flip=flip)  # pyright: ignore[reportArgumentType]
        found = settings.windows(patches_of, head, 10, "bilinear", "cpu")(image, (20, 30)).tolist()
        assert found == expected([10, 13], mirrored=mirrored)
        assert found != expected([10, 13], mirrored=not mirrored)
        assert found != expected([10], mirrored=mirrored)
