from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssleval.backbones.zoo import load
from ssleval.core import Context, Dataset, DatasetCard, Readout, Samples, Split
from ssleval.core.backbone import Backbone
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.features import FeatureSource
from ssleval.tasks.caption_retrieval import CaptionRetrieval
from tests.tasks.clip_models import tiny_clip
from tests.tasks.feature_tables import evaluated

WORDS = ("red", "big", "dog", "cat", "tree", "lake", "old", "car", "far", "two")


class Noise:
    def __call__(self, index: int) -> Image.Image:
        random = np.random.default_rng(index)
        pixels = random.uniform(0, 255, 3) + 60 * random.normal(size=(40, 36, 3))
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def captions(index: int) -> tuple[str, ...]:
    """One to three captions, all different."""
    words = np.random.default_rng(index).choice(WORDS, 3, replace=False)
    return tuple(f"{index} {number} {' '.join(words[number:])}" for number in range(1 + index % 3))


def same(index: int) -> tuple[str, ...]:
    return ("the same",)


def nothing(index: int) -> tuple[str, ...]:
    return ()


def described(count: int = 24, said: Callable[[int], tuple[str, ...]] = captions) -> Dataset:
    def open_split(name: str) -> Split:
        return Split([f"{i}" for i in range(count)], Noise(), None, f"noise-{count}", said)

    return Dataset(DatasetCard("noise", target="captions", lengths={"test": count}), open_split)


def measured(backbone: Backbone, folder: Path, dataset: Dataset, **settings: Any) -> Samples:
    task = CaptionRetrieval(**settings)
    source = FeatureSource(backbone, Context(cache=folder / "cache", progress=False))
    return evaluated(task, source, dataset, source.context)


def test_recalls_are_those_of_the_whole_matrix(tmp_path: Path) -> None:
    backbone = tiny_clip(tmp_path / "clip")
    dataset = described()
    samples = measured(backbone, tmp_path, dataset)
    source = FeatureSource(backbone, Context(cache=tmp_path / "cache", progress=False))
    (request,) = CaptionRetrieval().requests(dataset)
    images = torch.from_numpy(np.array(source.load(request)[Readout("pooled")]))
    texts = [text for index in range(24) for text in captions(index)]
    owner = torch.tensor([index for index in range(24) for _ in captions(index)])
    scores = torch.nn.functional.cosine_similarity(images[:, None], backbone.encode_text(texts)[None], dim=-1)
    for metric in CaptionRetrieval().metrics:
        kind, _, k = metric.name.partition("@")
        if kind == "image_recall":
            nearest = scores.T.topk(int(k), dim=1).indices
            expected = (nearest == owner[:, None]).any(1).float().mean()
        else:
            nearest = owner[scores.topk(int(k), dim=1).indices]
            expected = (nearest == torch.arange(24)[:, None]).any(1).float().mean()
        assert metric.score(samples) == pytest.approx(float(expected)), metric.name
    assert [metric.name for metric in CaptionRetrieval().metrics][::3] == ["image_recall@1", "text_recall@1"]
    assert samples["captions"].tolist() == [1 + index % 3 for index in range(24)]


def test_settings_change_the_answer(tmp_path: Path) -> None:
    backbone = tiny_clip(tmp_path / "clip")
    first = measured(backbone, tmp_path, described())
    fewer = measured(backbone, tmp_path, described(), captions=1)
    assert set(fewer["captions"]) == {1}
    assert first["text_rank"].tolist() != fewer["text_rank"].tolist()
    other = measured(backbone, tmp_path, described(), ks=(3,))
    assert other["image_right@3"].tolist() == (first["text_rank"] < 3).tolist()
    assert first["image_right@1"].tolist() != other["image_right@3"].tolist()


def test_of_equal_captions_the_earlier_ranks_first(tmp_path: Path) -> None:
    samples = measured(tiny_clip(tmp_path / "clip"), tmp_path, described(said=same))
    assert samples["text_rank"].tolist() == list(range(24))


def test_what_it_has_no_meaning_for_is_refused(tmp_path: Path) -> None:
    labelled = Dataset(DatasetCard("labels", lengths={"test": 1}), described().open)
    with pytest.raises(NotApplicableError, match="has target 'label'"):
        evaluated(CaptionRetrieval(), FeatureSource(load("pixels"), Context(progress=False)), labelled)
    with pytest.raises(NotApplicableError, match="no text tower"):
        measured(load("pixels"), tmp_path, described())
    with pytest.raises(DataError, match="noise: 0 has no caption"):
        measured(tiny_clip(tmp_path / "clip"), tmp_path, described(said=nothing))


@pytest.mark.parametrize("wrong", [{"ks": ()}, {"ks": (0,)}, {"ks": (1, 1)}, {"captions": -1}], ids=str)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^caption_retrieval.{next(iter(wrong))}="):
        CaptionRetrieval(**wrong)
