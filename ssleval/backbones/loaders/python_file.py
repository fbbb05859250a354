"""Backbones from Python files of the user: ``path/to/file.py:factory``.

The file is run. ``factory()`` returns a `ssleval.core.backbone.Backbone` with its card and weights.
"""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ssleval.core import BackboneCard, digest
from ssleval.core.backbone import WRAP, Backbone, Loader, WeightsFrom, backbones
from ssleval.core.faults import faults_of
from ssleval.core.fingerprints import attributes_sha256, code_sha256
from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, ContractError, UnknownNameError


def _card(identifier: str) -> BackboneCard:
    card = _made(identifier)[1].card
    # What the file returns is prepared as its author says.
    return replace(card, name=identifier, loader="python_file", arch=identifier, normalisation="stated")


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    if weights.kind == "checkpoint":
        raise ConfigError(f"{card.name}: a file of your own loads its own weights; leave --checkpoint out")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed)
        module, backbone = _made(card.arch)
    backbone.card = card
    # Also where the class is not of this file: the factory may change what another one built.
    backbone.configuration = {
        "code": code_sha256(backbone, [module]), "attributes": attributes_sha256(backbone)
    }  # fmt: skip
    return backbone


def _made(identifier: str) -> tuple[str, Backbone]:
    """Run the file and call its factory; return the name of the module, and the model."""
    location, _, factory = identifier.rpartition(":")
    path = Path(location)
    if not path.is_file():
        raise UnknownNameError(f"{identifier}: no file {location}")
    # A unique module name: Python finds the module of a class that the file defines by this name.
    name = f"{path.stem}_{digest(str(path.resolve()))[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with faults_of(identifier, foreign=True):
        spec.loader.exec_module(module)
    if not hasattr(module, factory):
        callables = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise UnknownNameError(f"{location} has no {factory!r}; {suggestion(factory, callables)}")
    with faults_of(identifier, foreign=True):
        backbone = getattr(module, factory)()
    if not isinstance(backbone, Backbone):
        raise ContractError(f"{identifier}() returned {type(backbone).__name__}, {WRAP}")
    card: Any = getattr(backbone, "card", None)
    if not isinstance(card, BackboneCard) or not hasattr(backbone, "std"):
        raise ContractError(
            f"{identifier}: {type(backbone).__name__} never called super().__init__(card, ...)"
        )
    return name, backbone


backbones.register("python_file")(Loader(_card, _build))
