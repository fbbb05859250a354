"""Which network of a training's file is read.

A network is the mapping, or all tensors with the prefix, of one name: ``teacher``, ``state_dict_ema``,
``encoder_q``. Trainings keep several, of which one is often a running average of another. Names that need no
choice, such as ``model`` around everything, are passed through.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssleval.backbones.weights.reading import read_content
from ssleval.core.text import some
from ssleval.errors import WeightsError

DEFAULT = "teacher"
"""The averaged network of a self-distillation; other files are read by the rule of `_BY_PREFERENCE`."""

_WRAPPERS = (
    "model", "state_dict", "model_state_dict", "module", "network", "net", "classy_state_dict", "base_model",
    "backbone", "encoder", "encoder_q", "base_encoder", "trunk",
)  # fmt: skip
_BY_PREFERENCE: tuple[tuple[str, ...], ...] = (
    ("teacher", "teacher_backbone"),
    ("online_encoder", "online_network"),
    ("target_encoder",),
    _WRAPPERS,
    ("student_backbone",),
    (
        "model_ema", "state_dict_ema", "ema", "momentum_backbone", "backbone_momentum", "momentum_encoder",
        "encoder_k", "target_network",
    ),
)  # fmt: skip
"""Without a choice of the user, the network of the first line that has one: the one that the method's own
evaluation reads (DINO's teacher, BYOL's online encoder, I-JEPA's target encoder, MoCo's query encoder)."""
_STUDENT = "student"
_KNOWN = (_STUDENT, *(name for names in _BY_PREFERENCE for name in names))
_PARTS_OF_NETWORKS = {"encoder", "model", "net", "network", "trunk"}
"""Names that also begin tensors inside a network, beside others: these are passed through only where all that
lies beside them is known to be something else."""
_BESIDE = {
    "bn", "center", "classifier", "criterion", "decoder", "dino_head", "fc", "head", "heads", "ibot_head",
    "loss", "mask_token", "momentum_classifier", "momentum_predictor", "momentum_projector", "neck",
    "online_predictor", "prediction_head", "prediction_head_momentum", "predictor", "projection_head",
    "projection_head_momentum", "projector", "prototypes", "queue", "queue_ptr", "student_head",
    "teacher_head",
}  # fmt: skip
"""What DINO, BYOL, MoCo, Barlow Twins, lightly, solo-learn and VISSL store beside their networks."""
_PREFIXES = ("module.", "_orig_mod.", "_feature_blocks.")
"""Written by DistributedDataParallel, torch.compile, and VISSL around the trunk of a residual network."""
_MULTI_CROP = "backbone."
"""Written by the multi-crop wrapper of DINO and DINOv2."""
_DEEPEST = 5
"""Mappings within mappings that are looked into."""
_MOST_MAPPINGS = 200
"""Mappings in which tensors are looked for, below one name; Python's own depth is larger."""
_TIMES_STORED = 16
"""Tensors may share their memory in a file; together they are not larger than so many times the file."""


@dataclass(frozen=True, slots=True)
class Network:
    """One network of a file."""

    content: Mapping[Any, Any]
    """Its tensors by name; while a network is looked for, whatever the file has there."""
    path: str = ""
    """Where it lies, such as ``state_dict.backbone``: ``--key`` with this text reads it again. '' if the file
    is the network."""
    others: tuple[str, ...] = ()
    """Names of other networks beside it."""

    def below(self, name: str) -> "Network":
        """Return what lies below ``name``."""
        others = (*self.others, *(other for other in _known(self.content) if other != name))
        path = f"{self.path}.{name}" if self.path else name
        return Network(_bare(_below(self.content, name)), path, tuple(dict.fromkeys(others)))


def read_network(path: Path, key: str = DEFAULT) -> Network:
    """Return the network of a file that ``key`` names: any prefix, with or without the wrappers around it.

    Raises:
        WeightsError: as `read_content`; there is no such network, several have the name, or it holds tensors
            without values, or of a type whose values need a scale.
    """
    content = read_content(path)
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: it holds {type(content).__name__}, expected named tensors")
    whole = Network(_bare(content))
    parts = [part for part in key.split(".") if part]
    found = _find(whole, parts) or _find(whole, [f"{key}_backbone"])
    if len(found) > 1:
        paths = some([network.path for network in found])
        raise WeightsError(f"{path}: several networks are called {key!r}: {paths}; choose one with --key")
    if not found and key != DEFAULT:
        raise _absent(path, key, whole)
    network = found[0] if found else _preferred(whole, path)
    while (inner := _preferred(network, path)) is not network:
        network = inner
    return replace(network, content=strip(_checked(network.content, path), str(path)))


def strip(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers add to names; refuse tensors that would get the same name."""
    stripped: dict[str, Tensor] = {}
    for name, tensor in state.items():
        short = _short(name, (*_PREFIXES, _MULTI_CROP))
        if short in stripped:
            raise WeightsError(f"{origin}: two tensors are called {short!r} without their prefixes")
        stripped[short] = tensor
    return stripped


def _find(inside: Network, parts: Sequence[str], depth: int = _DEEPEST) -> list[Network]:
    """Return the networks at the path ``parts`` in this one, or in what is wrapped around them."""
    if not parts:
        return []
    if _has(inside.content, parts[0]):
        found = inside.below(parts[0])
        return _find(found, parts[1:], depth) if parts[1:] else [found]
    wrappers = [name for name in _WRAPPERS if depth and _has(inside.content, name)]
    return [network for name in wrappers for network in _find(inside.below(name), parts, depth - 1)]


def _preferred(network: Network, path: Path) -> Network:
    """Return the network inside this one by `_BY_PREFERENCE`, or this one where it has none inside."""
    known = [name for name in _known(network.content) if _is_apart(network.content, name)]
    for names in _BY_PREFERENCE:
        present = [name for name in names if name in known]
        averages = names is _BY_PREFERENCE[0]
        if len(present) > 1 or (_STUDENT in known and not averages) or network.path.count(".") > _DEEPEST:
            raise _absent(path, DEFAULT, network)
        if present:
            inner = network.below(present[0])
            if averages or isinstance(network.content.get(present[0]), Mapping):
                return inner
            return replace(inner, content=_merged(inner.content, _beside(network.content), path))
    return network


def _is_apart(content: Mapping[Any, Any], name: str) -> bool:
    """Return whether ``name`` begins a network, and not tensors of a network that has others beside them."""
    if name not in _PARTS_OF_NETWORKS or isinstance(content.get(name), Mapping):
        return True
    return not any(isinstance(value, Tensor) for value in _beside(content).values())


def _beside(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return what no training is known to store beside its networks."""
    elsewhere = {*_known(content), *_BESIDE}
    return {
        name: value
        for name, value in content.items()
        if _first(name) not in elsewhere and not isinstance(value, Mapping)
    }


def _merged(inner: Mapping[Any, Any], beside: Mapping[Any, Any], path: Path) -> dict[Any, Any]:
    if twice := [name for name in beside if name in inner]:
        raise WeightsError(f"{path}: two tensors are called {twice[0]!r} without their prefixes")
    return {**beside, **inner}


def _known(content: Mapping[Any, Any]) -> list[str]:
    """Return the names of `_KNOWN` under which there are tensors."""
    present = {
        _first(name)
        for name, value in content.items()
        if (_first(name) != name or isinstance(value, Mapping)) and _has_tensors(value, set())
    }
    return [name for name in _KNOWN if name in present]


def _has_tensors(value: Any, seen: set[int]) -> bool:
    """Return whether there is a tensor at any depth; ``seen`` holds the mappings that were looked into."""
    if isinstance(value, Tensor):
        return True
    if not isinstance(value, Mapping) or id(value) in seen or len(seen) > _MOST_MAPPINGS:  # pyright: ignore[reportUnknownArgumentType]
        return False
    seen.add(id(value))  # pyright: ignore[reportUnknownArgumentType]
    return any(_has_tensors(part, seen) for part in value.values())  # pyright: ignore[reportUnknownVariableType]


def _has(content: Mapping[Any, Any], name: str) -> bool:
    return isinstance(content.get(name), Mapping) or bool(_below(content, name))


def _below(content: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
    inner = content.get(name)
    if isinstance(inner, Mapping):
        return inner  # pyright: ignore[reportUnknownVariableType]
    start = f"{name}."
    return {
        key[len(start) :]: value
        for key, value in content.items()
        if isinstance(key, str) and key.startswith(start)
    }


def _bare(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return the content without `_PREFIXES`; where two names would be one, `strip` refuses them."""
    bare = {_short(name, _PREFIXES): value for name, value in content.items()}
    return bare if len(bare) == len(content) else content


def _short(name: Any, prefixes: tuple[str, ...]) -> Any:
    while isinstance(name, str) and name.startswith(prefixes):
        name = name.partition(".")[2]
    return name


def _first(name: Any) -> str:
    return str(name).partition(".")[0]


def _absent(path: Path, key: str, network: Network) -> WeightsError:
    """Return the error that lists what may be chosen: the content of the only network, or of the file."""
    while len(known := _known(network.content)) == 1 and known[0] in _WRAPPERS:
        network = network.below(known[0])
    names = list(dict.fromkeys(map(_first, network.content)))
    return WeightsError(f"{path}: no network {key!r}; it has {some(names, 12)}; choose one with --key")


def _checked(content: Mapping[Any, Any], path: Path) -> Mapping[str, Tensor]:
    """Refuse what is no tensor with a name, or one whose stored values are not its values."""
    strange = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strange or not content:
        kinds = [f"{_first(name)} ({type(content[name]).__name__})" for name in islice(content, 8)]
        raise WeightsError(
            f"{path}: {len(strange)} of {len(content)} entries are no tensors; it has "
            f"{some(kinds, 8) or 'nothing'}; name the network with --key"
        )
    if unnamed := [name for name in content if not isinstance(name, str)]:
        raise WeightsError(f"{path}: tensors have no names but {some(unnamed)}; save the model's state_dict")
    for name, tensor in content.items():
        if reason := _unusable(tensor):
            raise WeightsError(f"{path}: {some([name])} {reason}")
    if sum(tensor.nbytes for tensor in content.values()) > _TIMES_STORED * _stored(path):
        raise WeightsError(f"{path}: its tensors are larger than the file; save them without expanded ones")
    return content


def _unusable(tensor: Tensor) -> str:
    """Return why the values of a tensor cannot be used, or an empty text."""
    if tensor.is_meta:
        return "has a shape and no values (device meta); save the model after its weights are loaded"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"is not dense ({tensor.layout}); save it with to_dense()"
    if tensor.is_quantized or (tensor.is_floating_point() and tensor.dtype.itemsize == 1):
        return f"is stored as {tensor.dtype}, whose scale is unknown here; save it as bfloat16 or float32"
    return ""


def _stored(path: Path) -> int:
    """Return the bytes of a file, or of all files beside an index."""
    return sum(file.stat().st_size for file in (path.parent.iterdir() if path.suffix == ".json" else [path]))
