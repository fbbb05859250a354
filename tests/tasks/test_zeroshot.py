from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

from ssleval.backbones.zoo import load
from ssleval.core import Context, Dataset, DatasetCard, Readout, Samples, Split
from ssleval.core.backbone import Backbone
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.features import FeatureSource
from ssleval.heads.zeroshot import class_embeddings, image_text_logits
from ssleval.run.jobs import make_job
from ssleval.run.measure import measure
from ssleval.tasks.zeroshot import Zeroshot
from tests.tasks.clip_models import tiny_clip
from tests.tasks.feature_tables import evaluated

NAMES = ("cat", "dog", "car", "tree", "house", "chair", "boat")


class Noise:
    """Coloured noise, another for every image."""

    def __call__(self, index: int) -> Image.Image:
        random = np.random.default_rng(index)
        pixels = random.uniform(0, 255, 3) + 60 * random.normal(size=(40, 36, 3))
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def noise(count: int = 40, **card: Any) -> Dataset:
    labels = (np.arange(count) ** 2) % len(NAMES)
    several = np.eye(len(NAMES), dtype=bool)[labels]
    targets = several if card.get("target") == "multilabel" else labels

    def open_split(name: str) -> Split:
        return Split([f"{i}" for i in range(count)], Noise(), targets, f"noise-{count}-{targets.ndim}")

    return Dataset(DatasetCard("noise", class_names=NAMES, lengths={"test": count}, **card), open_split)


def measured(
    backbone: Backbone, tmp_path: Path, dataset: Dataset | None = None, task: Zeroshot | None = None
) -> Samples:
    dataset = dataset or noise()
    source = FeatureSource(backbone, Context(cache=tmp_path / "cache", progress=False))
    return evaluated(task or Zeroshot(), source, dataset, source.context)


def test_logits_are_those_of_open_clips_own_classifier(tmp_path: Path) -> None:
    backbone: Any = tiny_clip(tmp_path / "clip")
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES[:12]
    names = [f"{name} {number}" for name in NAMES for number in range(2)]
    expected = open_clip.build_zero_shot_classifier(
        backbone.model, open_clip.get_tokenizer("ViT-B-32"), names, templates, num_classes_per_batch=10
    )
    classes = class_embeddings(backbone, [[template(name) for template in templates] for name in names])
    assert torch.equal(classes.T, expected)
    images = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        logits, _ = backbone.model.get_logits(
            (images - backbone.mean) / backbone.std, open_clip.SimpleTokenizer()(["a", "b"])
        )
        units = backbone.model.encode_image((images - backbone.mean) / backbone.std, normalize=True)
        scale = backbone.model.logit_scale.exp()
        texts = torch.nn.functional.normalize(backbone.encode_text(["a", "b"]), dim=-1)
    features = backbone(images).pooled.numpy()
    (found,) = image_text_logits(features, classes, backbone.similarity())
    assert torch.allclose(found, scale * units @ expected, atol=1e-5)
    (paired,) = image_text_logits(features, texts, backbone.similarity())
    assert torch.allclose(paired, logits, atol=1e-5)


def test_a_learnt_bias_is_added(tmp_path: Path) -> None:
    backbone: Any = tiny_clip(tmp_path / "clip", init_logit_bias=-7.0)
    images, texts = torch.rand(3, 3, 32, 32), ["a cat", "a dog"]
    with torch.no_grad():
        expected, _ = backbone.model.get_logits(
            (images - backbone.mean) / backbone.std, open_clip.SimpleTokenizer()(texts)
        )
    classes = class_embeddings(backbone, [[text] for text in texts])
    (found,) = image_text_logits(backbone(images).pooled.numpy(), classes, backbone.similarity())
    assert backbone.similarity().bias == -7.0
    assert torch.allclose(found, expected, atol=1e-5)


def test_scores_are_those_of_the_published_classifier(tmp_path: Path) -> None:
    backbone: Any = tiny_clip(tmp_path / "clip")
    samples = measured(backbone, tmp_path)
    weights = open_clip.build_zero_shot_classifier(
        backbone.model, open_clip.get_tokenizer("ViT-B-32"), NAMES, ["a photo of a {}."]
    )
    source = FeatureSource(backbone, Context(cache=tmp_path / "cache", progress=False))
    (request,) = Zeroshot().requests(noise())
    features = torch.from_numpy(np.array(source.load(request)[Readout("pooled")]))
    with torch.no_grad():
        logits = backbone.model.logit_scale.exp() * torch.nn.functional.normalize(features, dim=-1) @ weights
    labels = torch.from_numpy(samples["label"])
    scores = {metric.name: metric.score(samples) for metric in Zeroshot().metrics}
    assert scores["top1"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    best = logits.topk(5, dim=1).indices == labels[:, None]
    assert scores["top5"] == pytest.approx(float(best.any(1).float().mean()))
    recall = balanced_accuracy_score(labels.numpy(), logits.argmax(1).numpy())
    assert scores["mean_per_class"] == pytest.approx(recall)
    assert scores["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-5)
    assert 0 < scores["top1"] < scores["top5"] < 1


def test_every_setting_changes_the_answer(tmp_path: Path) -> None:
    backbone = tiny_clip(tmp_path / "clip")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(reversed(NAMES)))
    before = measured(backbone, tmp_path)
    for task in (Zeroshot(templates="imagenet_seven"), Zeroshot(class_names=str(names))):
        after = measured(backbone, tmp_path, task=task)
        assert before["nll"].tolist() != after["nll"].tolist()
    leads = [replace(Zeroshot(), metric=metric).metrics[0].name for metric in ("top1", "mean_per_class")]
    assert leads == ["top1", "mean_per_class"]


def test_the_scale_of_the_model_decides_its_likelihood(tmp_path: Path) -> None:
    backbone: Any = tiny_clip(tmp_path / "clip")
    before = measured(backbone, tmp_path)
    backbone.model.logit_scale.data += 1
    after = measured(backbone, tmp_path)
    assert before["predicted"].tolist() == after["predicted"].tolist()
    assert not np.allclose(before["nll"], after["nll"])


def test_several_labels_are_scored_by_map(tmp_path: Path) -> None:
    backbone = tiny_clip(tmp_path / "clip")
    dataset = noise(target="multilabel", metric="map")
    samples = measured(backbone, tmp_path, dataset)
    single = measured(backbone, tmp_path)
    assert samples["scores"].shape == samples["targets"].shape == (40, len(NAMES))
    assert samples["scores"].argmax(1).tolist() == single["predicted"].tolist()
    (metric,) = Zeroshot().resolved(dataset).metrics
    assert 0 < metric.score(samples) < 1
    with pytest.raises(NotApplicableError, match="which top1 cannot score"):
        Zeroshot(metric="top1").resolved(dataset)


def test_prompts_are_recorded_and_can_be_pinned() -> None:
    task = Zeroshot().resolved(noise())
    assert (task.templates, task.metric, len(task.prompts_sha256)) == ("simple", "top1", 64)
    assert task.resolved(noise()) == task
    with pytest.raises(ConfigError, match="prompts of noise have sha256"):
        replace(task, templates="cifar").resolved(noise())


def test_a_model_without_texts_is_left_out_before_anything_is_extracted(tmp_path: Path) -> None:
    backbone = load("pixels")
    context = Context(cache=tmp_path, progress=False)
    jobs = [make_job("zeroshot", "noise", noise(), None, None)] * 2
    reason = "zeroshot on noise: pixels has no text tower"
    with pytest.raises(NotApplicableError, match=f"^{reason}; {reason}$"):
        list(measure(backbone, jobs, context, None))
    assert not list(tmp_path.iterdir())
    spectrum = make_job("spectrum", "noise", noise(), {"first": 1, "last": 3, "preprocessing": "card"}, None)
    notes: list[str] = []
    (result,) = measure(backbone, [jobs[0], spectrum], context, None, note=notes.append)
    assert result.task == "spectrum"
    assert notes[0] == f"not applicable: {reason}"


def test_data_without_labels_has_no_classes(tmp_path: Path) -> None:
    with pytest.raises(NotApplicableError, match="has target 'depth'"):
        measured(load("pixels"), tmp_path, noise(target="depth"))
