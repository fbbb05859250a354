"""Files of weights, read as data: safetensors, pickles of tensors, and an index of several such files.

Nothing that a file holds is run. `torch.load` with ``weights_only`` builds tensors and plain containers.
Placeholders take the place of other classes that trainings are known to store beside them, such as arguments
and paths. All other classes are refused by name.
"""

import json
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import safetensors.torch
import torch

from ssleval.backbones.weights.weightfile import SUFFIX, UNREADABLE
from ssleval.core.files import DAMAGED_PICKLE
from ssleval.core.text import some
from ssleval.errors import WeightsError

INDEX = ".index.json"
"""How the name of an index of shards ends."""
_LARGEST_INDEX = 1 << 26
"""Bytes; an index has about a hundred for each tensor."""


class _Ignored:
    """Stands for an object that is not read; its state is dropped."""

    def __init__(self, *arguments: Any) -> None:
        """Take any arguments."""

    def __setstate__(self, state: Any) -> None:
        """Drop the state."""


class _Entries(OrderedDict[Any, Any]):
    """Stands for a mapping of another class: its entries are kept, its arguments dropped."""

    def __new__(cls, *_: Any) -> Any:
        """Return the kind of mapping that torch's unpickler fills."""
        return OrderedDict[Any, Any]()


_MAPPINGS = (
    "collections.defaultdict", "addict.addict.Dict", "easydict.EasyDict", "fvcore.common.config.CfgNode",
    "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    "lightning_utilities.core.rank_zero.AttributeDict", "mmengine.config.config.ConfigDict",
    "mmcv.utils.config.ConfigDict", "pytorch_lightning.utilities.parsing.AttributeDict",
    "vissl.utils.hydra_config.AttrDict", "yacs.config.CfgNode",
)  # fmt: skip
_OBJECTS = (
    "argparse.Namespace", "builtins.dict", "builtins.float", "builtins.int", "builtins.list",
    "builtins.object", "builtins.str", "builtins.tuple", "datetime.datetime", "datetime.timedelta",
    "numpy.bool_", "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy.dtype", "numpy.ndarray",
    "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode", "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode", "omegaconf.nodes.IntegerNode", "omegaconf.nodes.StringNode",
    "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath", "pathlib.WindowsPath",
    "pathlib._local.PosixPath", "pathlib._local.PurePosixPath", "pathlib._local.PureWindowsPath",
    "pathlib._local.WindowsPath", "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "types.SimpleNamespace", "typing.Any",
)  # fmt: skip
_PLACEHOLDERS: list[Any] = [
    *((_Entries, name) for name in _MAPPINGS),
    *((_Ignored, name) for name in _OBJECTS),
]
"""What takes the place of a class or function, and its name in a pickle. None of them is imported."""


_PICKLED = (b"PK", b"\x80\x02")
"""How an archive of `torch.save` begins, and a pickle of its older format."""


def read_content(path: Path) -> Any:
    """Return what a file holds: named tensors, or mappings of such beside other things.

    ``path`` is a file named ``.safetensors``, one that `torch.save` wrote, or an index of several of these
    (``model.safetensors.index.json``), which are read as one.

    Raises:
        WeightsError: a file is missing or damaged, or holds classes that are not on the allow-list.
    """
    if not path.name.endswith(INDEX):
        return _read_file(path)
    files: dict[str, set[str]] = {}
    for name, file in _shards(path).items():
        files.setdefault(file, set()).add(name)
    content: dict[str, Any] = {}
    for file, names in files.items():
        shard = _read_file(path.with_name(file))
        if not isinstance(shard, Mapping) or names != set(shard):
            raise WeightsError(f"{path}: {file} does not hold what the index promises; get all files anew")
        content |= shard
    return content


def _shards(path: Path) -> dict[str, str]:
    _refuse_absent(path)
    if path.stat().st_size > _LARGEST_INDEX:
        raise WeightsError(f"{path}: it is too large for an index of shards")
    try:
        shards = json.loads(path.read_bytes())["weight_map"]
        plain = all(Path(file).name == file and not file.endswith(INDEX) for file in shards.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: it is no index of shards ({some([repr(error)])})") from error
    if not plain or not shards:
        raise WeightsError(f"{path}: its weight_map must name files of the same folder")
    return shards


def _refuse_absent(path: Path) -> None:
    if not path.is_file():
        reason = "there is no such file" if not path.exists() else "it is no regular file"
        reason = "it is a folder" if path.is_dir() else reason
        raise WeightsError(f"{path}: {reason}; give a .safetensors file or one written by torch.save")


def _read_file(path: Path) -> Any:
    _refuse_absent(path)
    try:
        if path.suffix == SUFFIX:
            return safetensors.torch.load_file(path, device="cpu")
        _refuse_compressed(path)
        # torch warns of newer protocols of pickle, and then reads them or raises.
        with warnings.catch_warnings(), torch.serialization.safe_globals(_PLACEHOLDERS):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, *DAMAGED_PICKLE, MemoryError) as error:
        raise _unreadable(path, error) from error


def is_compressed(entries: Sequence[ZipInfo], size: int) -> bool:
    """Return whether an archive of ``size`` bytes unpacks to more; torch does not compress."""
    inflated = sum(entry.file_size for entry in entries) > size
    return inflated or any(entry.compress_type != ZIP_STORED for entry in entries)


def _refuse_compressed(path: Path) -> None:
    try:
        with ZipFile(path) as archive:
            entries = archive.infolist()
    except (BadZipFile, OSError):
        return  # a pickle of the older format, or a damaged file
    if is_compressed(entries, path.stat().st_size):
        raise WeightsError(f"{path}: its content is compressed; torch.save writes it as it is")


def _unreadable(path: Path, error: BaseException) -> WeightsError:
    text = str(error).strip()
    if path.suffix != SUFFIX and _is_safetensors(path):
        advice = f"its content is safetensors; rename it to {path.with_suffix(SUFFIX).name}"
    elif path.suffix == SUFFIX and _begins(path, 2) in _PICKLED:
        advice = f"torch.save wrote it, it is no safetensors; rename it to {path.with_suffix('.pth').name}"
    elif "Unsupported global: " in text or "Unsupported class" in text or "unsupported GLOBAL" in text:
        text = text[text.lower().index("unsupported ") :]
        advice = "it holds more than tensors, which would mean running its code; save its state_dict alone"
    elif "Unsupported operand" in text or "Can only " in text:
        text = text[text.index("Unsupported operand" if "Unsupported operand" in text else "Can only ") :]
        advice = "it is pickled in a way that torch does not read safely; save its state_dict with torch.save"
    else:
        advice = "it is damaged, incomplete or no file of weights; get it again"
    reason = (text or type(error).__name__).splitlines()[0][:200]
    return WeightsError(f"{path} ({path.stat().st_size:,} bytes): {advice} ({reason})")


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins as one: with the length of a header, and the brace that opens it."""
    head = _begins(path, 9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _begins(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)
