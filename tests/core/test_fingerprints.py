import collections
import functools
import importlib
import re
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssleval.backbones.zoo import load
from ssleval.core.backbone import Backbone
from ssleval.core.fingerprints import attributes_sha256, code_sha256
from tests.features.feature_fakes import CARD, Tiny


@dataclass
class Options:
    width: int = 1
    names: tuple[str, ...] = ("a", "b")


class Holds(Tiny):
    """A model with one more attribute."""

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.value = value


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: object) -> None:
        self.inner = inner


def line(weight: float) -> nn.Module:
    layer = nn.Linear(1, 1)
    layer.weight.data.fill_(weight)
    layer.bias.data.zero_()
    return layer


def times(factor: float) -> Any:
    def scaled(rows: Any) -> Any:
        return rows * factor

    return scaled


def more(x: int) -> int:
    return x + 1


def less(x: int) -> int:
    return x - 1


PAIRS: dict[str, tuple[Any, Any]] = {
    "number": (1, 2),
    "float": (0.1, 0.1 + 1e-12),
    "true": (True, False),
    "none": (None, 0),
    "text": ("cls", "mean"),
    "path": (Path("a"), Path("b")),
    "list": ([1, 2], [2, 1]),
    "dictionary": ({"a": 1}, {"a": 2}),
    "keys": ({1: "a"}, {2: "a"}),
    "set": ({"a", "b"}, {"a", "c"}),
    "array": (np.arange(3), np.arange(3)[::-1]),
    "array type": (np.zeros(3), np.zeros(3, np.float32)),
    "objects": (np.array(["a", None]), np.array(["b", None])),
    "tensor": (torch.tensor(2.0), torch.tensor(3.0)),
    "bytes": (b"a", b"b"),
    "class": (nn.ReLU, nn.GELU),
    "options": (Options(1), Options(2)),
    "nested": (Options(names=("a",)), Options(names=("b",))),
    "slots": (Slotted(1), Slotted(2)),
    "pattern": (re.compile("a"), re.compile("b")),
    "deque": (collections.deque([1]), collections.deque([2])),
    "function": (times(1.0), times(2.0)),
    "code": (more, less),
    "partial": (functools.partial(torch.sum, dim=1), functools.partial(torch.sum, dim=0)),
    "method": (Options(1).__repr__, Options(2).__repr__),
    "type of a value": (torch.float16, torch.bfloat16),
    "hidden module": ([line(1.0)], [line(2.0)]),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_every_kind_of_attribute_counts(kind: str):
    one, other = PAIRS[kind]
    hashes = [attributes_sha256(Holds(value)) for value in (one, other, one)]
    assert hashes[0] == hashes[2] != hashes[1]


CHANGES: dict[str, tuple[str, str, Any]] = {
    "epsilon": ("final", "eps", 1e-3),
    "new attribute": ("blocks.1", "gate", "swish"),
    "part": ("", "drop", nn.Dropout(0.2)),
    "method": ("", "extract", more),
}


@pytest.mark.parametrize("change", CHANGES)
def test_attributes_of_every_part_count(change: str):
    part, name, value = CHANGES[change]
    model = Tiny()
    before = attributes_sha256(model)
    setattr(model.get_submodule(part), name, value)
    assert attributes_sha256(model) != before


def test_buffers_that_are_not_saved_and_parts_without_weights_count():
    model = Tiny()
    seen = {attributes_sha256(model)}
    model.register_buffer("grid", torch.ones(2), persistent=False)
    seen.add(attributes_sha256(model))
    model.add_module("extra", nn.Identity())
    assert len(seen | {attributes_sha256(model)}) == 3


def test_what_decides_no_features_does_not_count(tmp_path: Path):
    model = Holds(torch.device("cpu"))
    before = attributes_sha256(model)
    model.log = tmp_path / "log"  # left out by its __getstate__
    model.card = replace(CARD, name="alias")
    model.value = torch.device("meta")
    assert model.weights_sha256
    model(torch.rand(1, 3, 16, 16))
    assert attributes_sha256(model) == before
    assert len({attributes_sha256(Holds(device)) for device in ("cpu", "cuda", "cuda:1", "mps")}) == 1


def test_attributes_that_hold_each_other_or_cannot_be_pickled_come_to_an_end():
    loop: list[Any] = []
    loop.append(loop)
    chain: list[Any] = []
    for _ in range(5000):
        chain = [chain]

    def again() -> Any:
        return again

    for value in (loop, chain, again, threading.Lock(), sys.stdout, sys, iter([1]), nn.Module()):
        assert attributes_sha256(Holds(value)) == attributes_sha256(Holds(value))
    model = Holds()
    model.value = [model]
    assert attributes_sha256(model)


class Private(Holds):
    def __getstate__(self) -> dict[str, object]:
        raise RuntimeError("not to be pickled")

    def get_extra_state(self) -> object:
        return {"text": "beside the weights"}

    def set_extra_state(self, state: object) -> None:
        pass


def test_a_model_that_cannot_be_pickled_is_known_by_its_attributes():
    one, other = Private(1), Private(2)
    assert one.weights_sha256 == other.weights_sha256
    assert attributes_sha256(one) == attributes_sha256(Private(1)) != attributes_sha256(other)


class Evil:
    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        return Path.touch, (Path("run"),)


def test_nothing_of_a_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert attributes_sha256(Holds(Evil()))
    assert not list(tmp_path.iterdir())


def test_the_order_of_sets_and_of_keys_does_not_count():
    one, other = {0, 8}, {8, 0}  # Equal, and run through in another order, as texts are in another process.
    assert list(one) != list(other)
    for first, second in ((one, other), (frozenset(one), frozenset(other)), ({1: 1, 2: 2}, {2: 2, 1: 1})):
        assert attributes_sha256(Holds(first)) == attributes_sha256(Holds(second))


FILES = {
    "user_main": "from tests.features.feature_fakes import Tiny\nfrom user_pack import part\n"
    "from user_pack.inner import SCALE\nimport numpy\n\nclass Mine(Tiny):\n    def late(self):\n"
    "        import user_late\n",
    "user_pack/__init__": "NAME = 1\n",
    "user_pack/part": "from . import deep\nfrom .deep import *\n",
    "user_pack/deep": "X = 1\n",
    "user_pack/inner": "SCALE = 1\n",
    "user_late": "Y = 1\n",
    "user_other": "Z = 1\n",
}


@pytest.mark.parametrize("changed", FILES)
def test_every_file_of_the_user_that_is_imported_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
):
    (tmp_path / "user_pack").mkdir()
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in FILES:
        monkeypatch.delitem(sys.modules, name.replace("/__init__", "").replace("/", "."), raising=False)
    importlib.invalidate_caches()
    model: Backbone = importlib.import_module("user_main").Mine()
    before = code_sha256(model)
    assert code_sha256(model) == before
    (tmp_path / f"{changed}.py").write_text(FILES[changed] + "# other\n")
    assert (code_sha256(model) == before) == (changed == "user_other")


def test_classes_without_a_file_count_by_what_they_compute():
    def typed(factor: float, text: str) -> Backbone:
        source = (
            "from tests.features.feature_fakes import Tiny\n"
            f"FACTOR = {factor}\n"
            f"def scaled(x):\n    return x * FACTOR\n"
            f"class Typed(Tiny):\n    {text}\n    def extract(self, images, blocks, *, norm):\n"
            "        return scaled(super().extract(images, blocks, norm=norm))\n"
        )
        names: dict[str, Any] = {"__name__": "typed_in"}
        exec(source, names)
        return names["Typed"]()

    first, again, factor = typed(1.0, "pass"), typed(1.0, "pass"), typed(2.0, "pass")
    assert code_sha256(first) == code_sha256(again) != code_sha256(factor)
    assert code_sha256(typed(1.0, "def more(self): return 1")) != code_sha256(first)


@pytest.mark.parametrize("name", ["random:vit_tiny", "pixels"])
def test_our_own_models_keep_their_keys(name: str):
    assert load(name).definition == {}


def test_a_users_module_within_ours_counts():
    class Mine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    model: Any = load("random:vit_tiny")
    model.vit.norm = Mine()
    model.forget_hashes()
    assert set(model.definition) == {"code", "attributes"}
