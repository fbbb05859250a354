"""Every plug-in is tested here the moment its file exists."""

import importlib
import inspect
import pkgutil
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path

import pytest
import torch

import ssleval
from ssleval.backbones.zoo import load
from ssleval.core import DatasetCard
from ssleval.core.backbone import Backbone, backbones
from ssleval.core.registry import summaries
from ssleval.core.task import tasks
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from ssleval.metrics.recorded import describe
from ssleval.run.settings import build_task

TASKS = sorted(summaries("ssleval.tasks"))
PACKAGE = Path(ssleval.__path__[0])


@pytest.mark.parametrize("name", TASKS)
def test_task_is_a_frozen_dataclass_whose_module_states_the_protocol(name: str) -> None:
    task = tasks.get(name)
    assert is_dataclass(task)
    assert task.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
    module = inspect.getmodule(task)
    assert module is not None
    assert len((module.__doc__ or "").splitlines()) >= 4, "the module docstring is the protocol"
    assert task().metrics


@pytest.mark.parametrize("name", TASKS)
def test_task_fields_can_be_set_from_the_command_line(name: str) -> None:
    task = tasks.get(name)()
    for field, value in asdict(task).items():  # pyright: ignore[reportArgumentType]
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert build_task(name, {field: text}) == task, field


@pytest.mark.parametrize("name", TASKS)
def test_every_statistic_can_be_written_into_a_result(name: str) -> None:
    metrics = tasks.get(name)().metrics
    assert len({metric.name for metric in metrics}) == len(metrics)
    for metric in metrics:
        assert describe(metric.statistic)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_says_seeds_do_not_move_it_reads_none(name: str) -> None:
    kind = tasks.get(name)
    module = inspect.getmodule(kind)
    assert module is not None
    assert kind.seeded or "context.seed" not in inspect.getsource(module)


def test_every_module_exports_what_it_says() -> None:
    for module in pkgutil.walk_packages(ssleval.__path__, "ssleval."):
        if not module.name.endswith("__main__"):
            loaded = importlib.import_module(module.name)
            for name in getattr(loaded, "__all__", []):
                assert hasattr(loaded, name), f"{module.name}.{name}"


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not {"utils", "helpers", "common", "misc"} & {path.stem for path in PACKAGE.rglob("*.py")}


def test_backbone_stays_frozen() -> None:
    backbone = load("random:vit_tiny")
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone(torch.rand(1, 3, 32, 32)).pooled.requires_grad


def test_backbone_refuses_a_partial_patch() -> None:
    with pytest.raises(ConfigError, match="patch size 16"):
        load("pixels")(torch.zeros(1, 3, 32, 40))


@pytest.mark.parametrize("images", [torch.full((1, 3, 32, 32), 255.0), torch.full((1, 3, 32, 32), -0.5)])
def test_backbone_refuses_pixels_that_are_not_in_0_1(images: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"expected RGB in \[0, 1\]"):
        load("pixels")(images)


def test_backbone_refuses_a_block_it_does_not_have() -> None:
    with pytest.raises(ConfigError, match="no block 12; it has 12"):
        load("random:vit_tiny")(torch.zeros(1, 3, 32, 32), [12])


def test_backbone_that_breaks_its_card_is_refused() -> None:
    backbone = load("random:vit_tiny")
    backbone.card = replace(backbone.card, embed_dim=4)
    with pytest.raises(ContractError, match="expected"):
        backbone(torch.zeros(1, 3, 32, 32), [-1])


def test_the_hash_of_weights_sees_every_tensor() -> None:
    one, same, other = load("random:vit_tiny"), load("random:vit_tiny"), load("random:vit_tiny", seed=1)
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256
    changed = load("random:vit_tiny")
    with torch.no_grad():
        list(changed.parameters())[-1].view(-1)[0] += 1e-3
    assert changed.weights_sha256 != one.weights_sha256


def test_what_a_model_cannot_do_is_not_applicable() -> None:
    with pytest.raises(NotApplicableError, match="no text tower"):
        load("pixels").encode_text(["a photo"])


@pytest.mark.parametrize("name", sorted(backbones))
def test_every_loader_describes_and_builds(name: str) -> None:
    loader = backbones.get(name)
    assert callable(loader.card)
    assert callable(loader.build)


def test_a_card_without_lengths_is_no_dataset() -> None:
    assert DatasetCard(name="x").num_classes == 0


def test_public_api_is_what_all_says() -> None:
    functions = {"evaluate", "extract_features", "load", "read_results", "wrap"}
    assert set(ssleval.__all__) == {"Result", "__version__", *functions}
    for name in ssleval.__all__:
        assert getattr(ssleval, name)
    assert issubclass(Backbone, torch.nn.Module)
