"""Programs of `torch.export.save`: ``exported:FILE.pt2``, or ``exported:FILE.pt2?cls=true&registers=4``.

`torch.export.load` is not safe: it unpickles, evaluates texts as Python, imports what a tree names and lets a
program call any function of torch. Here a program is rewritten first, of what is known to be data alone:
tensors stored as they are, operators of ATen, sizes, and trees of tuples, lists and dictionaries. All else is
refused, and source positions and guards are left out. `Wrapped` takes the output apart.
"""

import io
import json
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssleval.backbones.graphfiles import Graph, GraphFile, graph_loader
from ssleval.backbones.weights.reading import is_compressed
from ssleval.core.backbone import backbones
from ssleval.core.faults import faults_of
from ssleval.core.files import DAMAGED_PICKLE
from ssleval.core.text import first_line, some
from ssleval.errors import ConfigError, WeightsError

_LARGEST_PROGRAM = 1 << 28
"""Bytes of JSON; a ViT-g has 3 MB."""
_PLAIN = re.compile(
    r"\.data/\w+|byteorder|archive_format|archive_version|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/(weight_\d+|tensor_\d+|model_(weights|constants)_config\.json)"
)
"""Entries of an archive that are read."""
_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_PYTHON = re.compile(
    r"_operator\.(getitem|add|sub|mul|floordiv|mod|neg|eq|ne|ge|gt|le|lt)|torch\.sym_(max|min)"
)
_REACHES_OUT = {"from_file"}
"""Operators of ATen that touch files."""
_SIZES = {"sym_size", "sym_numel", "sym_stride", "sym_storage_offset", "sym_is_contiguous"}
"""Operators on shapes, which the dispatcher does not know."""
_SIZE = re.compile(
    r"(Symbol\('\w{1,20}'(, (positive|integer|nonnegative)=True)*\)|(Max|Min|Mod|FloorDiv|Add|Mul|Integer)"
    r"|(?<!\*)\*(?!\*)|[-+/ ,()]|\b\d{1,18}\b)*"
)
"""Expressions of sizes that sympy may evaluate: without powers, which are slow, and without other names."""
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


class Program(Graph):
    """A program as a module, which runs on the device it was exported for, or moved to."""

    def __init__(self, file: GraphFile, name: str) -> None:
        super().__init__(file, name)
        program = load_program(file.path, name)
        self.module: nn.Module = program.module(check_guards=False)
        self.sides = _sides(program, name)
        fixed = [side for side in self.sides if isinstance(side, int)]
        self.size = (fixed[0], fixed[1]) if len(fixed) == 2 else None
        for part in self.module.modules():
            if isinstance(part, torch.fx.GraphModule):
                # Every such module has a class of its own. Its code says all; the rest is of torch.
                type(part).__getstate__ = lambda module: {"code": module.code}  # pyright: ignore[reportAttributeAccessIssue]

    def train(self, mode: bool = True) -> "Program":  # noqa: ARG002
        """Stay as it was exported: such modules refuse to change."""
        return self

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Any:
        """Run the program."""
        for side, allowed in zip(images.shape[-2:], self.sides, strict=True):
            if side != allowed and (isinstance(allowed, int) or not allowed.lower <= side <= allowed.upper):
                height, width = images.shape[-2:]
                raise ConfigError(
                    f"{self.name}: {height}x{width} pixels, which the program was not exported for; use a "
                    "geometry of its size (--set TASK.preprocessing=card), or export with dynamic shapes"
                )
        # A dynamic batch begins at two: torch may have specialised the program to that.
        alone = len(images) == 1
        output = self.module(images.repeat(2, 1, 1, 1) if alone else images)
        if self.output:
            if not isinstance(output, dict) or self.output not in output:
                raise ConfigError(f"{self.name}: it returns no dictionary with {self.output!r}")
            output = output[self.output]
        if alone and isinstance(output, dict):
            return {name: part[:1] for name, part in output.items()}
        return output[:1] if alone and isinstance(output, Tensor) else output


def _sides(program: Any, name: str) -> tuple[Any, Any]:
    """Return height and width that a program takes: numbers, or ranges."""
    inputs = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes}
    shape = nodes[inputs[0]].meta["val"].shape if len(inputs) == 1 else ()
    if len(shape) != 4 or shape[1] != 3 or isinstance(shape[0], int):
        shapes = some([f"{one} {list(nodes[one].meta['val'].shape)}" for one in inputs])
        raise ConfigError(
            f"{name}: its inputs are {shapes}; expected one of [batch, 3, height, width] with a dynamic "
            "batch: export it again (dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))"
        )
    ranges = program.range_constraints
    height, width = (side if isinstance(side, int) else ranges[side.node.expr] for side in shape[2:])
    return height, width


def load_program(path: Path, name: str) -> Any:
    """Return the program in a file, of which nothing is run.

    Raises:
        WeightsError: it holds something that is not known to be data, or is damaged.
    """
    try:
        with ZipFile(path) as archive:
            rewritten = _rewritten(archive, path.stat().st_size)
    except (BadZipFile, OSError, RecursionError, *DAMAGED_PICKLE) as error:
        raise WeightsError(
            f"{name}: no program that can be read without running it ({first_line(error)}); export it again "
            "with this version of torch (torch.export.save), or give the module by path/to/file.py:factory"
        ) from error
    with faults_of(name, foreign=True):
        return torch.export.load(rewritten)


def _rewritten(archive: ZipFile, size: int) -> io.BytesIO:
    """Return an archive with the entries that are data; ValueError where there is another."""
    entries = archive.infolist()
    if is_compressed(entries, size):
        raise ValueError("its content is compressed")
    sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in entries}
    if len(sizes) < len(entries):
        raise ValueError("an entry is there twice")
    out = io.BytesIO()
    with ZipFile(out, "w", ZIP_STORED) as safe:
        for entry in entries:
            place = entry.filename.partition("/")[2]
            if not _PLAIN.fullmatch(place):
                raise ValueError(f"{place[:80]!r} is no tensor stored as it is")
            content = archive.read(entry)
            if place.endswith(".json"):
                content = json.dumps(_checked(place, json.loads(content), sizes)).encode()
            elif place.endswith(".pt"):
                # What torch.export.load unpickles whole where this fails.
                torch.load(io.BytesIO(content), weights_only=True)
            safe.writestr(entry.filename, content)
    out.seek(0)
    return out


def _checked(place: str, content: Any, sizes: dict[str, int]) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"{place} is no object")  # noqa: TRY004 - of the file
    if place != "models/model.json":
        _check_payloads(content, place, sizes)
        return content
    if sizes[place] > _LARGEST_PROGRAM:
        raise ValueError(f"a program of {sizes[place]:,} bytes, at most {_LARGEST_PROGRAM:,} are read")
    for key, value in _parts(content):
        if key == "nodes":
            _check_nodes(value)
        elif key == "expr_str" and not (
            isinstance(value, str) and len(value) < 500 and _SIZE.fullmatch(value)
        ):
            raise ValueError(f"the size {str(value)[:80]!r} is no sum or product")
        elif key in {"in_spec", "out_spec"}:
            _check_tree(value)
        elif key == "treespec_namedtuple_fields" and value:
            raise ValueError("it has named tuples")
    for symbol in content.get("range_constraints", {}):
        if not re.fullmatch(r"\w{1,20}", symbol):
            raise ValueError(f"{symbol[:80]!r} is no symbol")
    # Python code, which torch would run.
    return {**content, "guards_code": []}


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every name of nested objects with its value; metadata of nodes are emptied on the way."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if "target" in part and "metadata" in part:
                part["metadata"] = {}
            for key, inner in part.items():
                yield key, inner
                left.append(inner)
        elif isinstance(part, list):
            left += part


def _check_nodes(nodes: Any) -> None:
    for node in nodes:
        target = node["target"]
        if not (_PYTHON.fullmatch(target) or _is_aten(target)):
            raise ValueError(f"it calls {target[:80]!r}, which is no operator of ATen")


def _is_aten(target: str) -> bool:
    found = _ATEN.fullmatch(target)
    if found is None or found[1] in _REACHES_OUT:
        return False
    # Those of the interpreter alone, which the dispatcher does not know, read and write files.
    name = f"aten::{found[1]}" + ("" if found[2] == "default" else f".{found[2]}")
    return found[1] in _SIZES or torch._C._dispatch_has_kernel(name)


def _check_tree(text: Any) -> None:
    """Refuse a tree of other containers than plain ones: to find others, torch imports modules."""
    if not text:
        return
    for key, value in _parts(json.loads(text)):
        if key == "type" and value not in _TREES:
            raise ValueError(
                f"its inputs or outputs are of {str(value)[:80]!r}; return tensors or dictionaries"
            )
        if key == "context" and value is not None:
            names = json.loads(value)
            if not all(isinstance(name, str) for name in names or ()):
                raise ValueError(f"its outputs have names that are no texts: {value[:80]!r}")


def _check_payloads(content: Any, place: str, sizes: dict[str, int]) -> None:
    folder = place.rpartition("/")[0]
    for name, payload in content["config"].items():
        if payload["use_pickle"]:
            raise ValueError(f"{name[:80]!r} is pickled")
        stored = sizes[f"{folder}/{payload['path_name']}"]
        # torch makes tensors that have no bytes as large as they are said to be.
        if not stored and prod(int(side["as_int"]) for side in payload["tensor_meta"]["sizes"]):
            raise ValueError(f"{name[:80]!r} has no content")


backbones.register("exported")(graph_loader("exported", Program))
