import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest
import torch
from torch import Tensor, nn

from ssleval.backbones.zoo import load
from ssleval.errors import ConfigError, UnknownNameError, WeightsError

CARD = {"mean": 0.5, "std": 0.25, "patch_size": 8}
DYNAMIC = {0: torch.export.Dim.DYNAMIC}


class Small(nn.Module):
    """A class token and 16 patches of 32 x 32 pixels."""

    def __init__(self, output: str = "tokens") -> None:
        super().__init__()
        self.output = output
        self.patches, self.cls = nn.Conv2d(3, 12, 8, 8), nn.Parameter(torch.randn(1, 1, 12))
        self.block = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12), nn.GELU())

    def forward(self, images: Tensor) -> Any:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(images.shape[0], -1, -1), patches], dim=1)
        tokens = self.block(nn.functional.scaled_dot_product_attention(tokens, tokens, tokens))
        if self.output == "dict":
            return {"x_norm_clstoken": tokens[:, 0], "x_norm_patchtokens": tokens[:, 1:]}
        return tokens[:, 0] if self.output == "vector" else tokens


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, Path]]:
    made: dict[str, tuple[nn.Module, Path]] = {}
    for output in ("tokens", "dict", "vector"):
        torch.manual_seed(0)
        module, path = Small(output).eval(), tmp_path_factory.mktemp("programs") / f"{output}.pt2"
        program = torch.export.export(module, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=(DYNAMIC,))
        torch.export.save(program, path)
        made[output] = module, path
    return made


@pytest.mark.parametrize(
    ("output", "stated"), [("tokens", "?cls=true"), ("dict", ""), ("vector", "?pooling=given")]
)
@pytest.mark.parametrize("count", [1, 3])
def test_features_are_those_of_the_module(files: Any, output: str, stated: str, count: int) -> None:
    module, path = files[output]
    backbone = load(f"exported:{path}{stated}", card=CARD)
    images = torch.rand(count, 3, 32, 32)
    with torch.no_grad():
        tokens = files["tokens"][0]((images - 0.5) / 0.25)
    features = backbone(images, (-1,) if output != "vector" else ())
    torch.testing.assert_close(features.pooled, tokens[:, 0], rtol=0, atol=1e-6)
    if features.blocks:
        torch.testing.assert_close(features.blocks[0].patches.flatten(1, 2), tokens[:, 1:], rtol=0, atol=1e-6)
    card = backbone.card
    assert (card.image_size, card.patch_size, card.embed_dim) == (32, 8, 12)
    assert card.parameters == round(sum(one.numel() for one in module.parameters()) / 1e6, 2)


def test_what_is_computed_and_with_which_weights_is_part_of_the_identity(files: Any, tmp_path: Path) -> None:
    name = f"exported:{files['tokens'][1]}?cls=true"
    first, again = load(name, card=CARD), load(name, card=CARD)
    assert (first.definition, first.weights_sha256) == (again.definition, again.weights_sha256)
    torch.manual_seed(1)
    program = torch.export.export(Small().eval(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=(DYNAMIC,))
    torch.export.save(program, tmp_path / "other.pt2")
    other = load(f"exported:{tmp_path / 'other.pt2'}?cls=true", card=CARD)
    assert other.weights_sha256 != first.weights_sha256
    assert other.definition == first.definition
    vector = load(f"exported:{files['vector'][1]}?pooling=given", card=CARD)
    assert vector.definition != first.definition


@pytest.mark.parametrize(
    ("output", "stated", "card", "message"),
    [
        ("tokens", "", CARD, r"17 tokens for 4x4 patches; state what comes first.*\?cls=true&registers=0"),
        ("vector", "", CARD, r"one vector, which may be logits.*\?pooling=given"),
        ("tokens", "?cls=true", {"mean": 0.5, "std": 0.5}, "state --patch-size 14 --image-size 224"),
        ("tokens", "?cls=true", {"patch_size": 8}, "state --image-mean"),
        ("tokens", "?cls=true", {**CARD, "patch_size": 16}, "patch tokens, expected 2x2"),
        ("tokens", "?cls=true", {**CARD, "image_size": 64}, "64x64 pixels, which the program was not"),
        *(
            ("tokens", f"?{given}", CARD, "write cls=true or false")
            for given in (
                "cls=maybe",
                "cls=1",
                "cls=null",
                "pooling=null",
                "registers=4.0",
                "registers=\u0664",
            )
        ),
        ("tokens", "?registers=-1", CARD, "registers=NUMBER"),
        ("tokens", "?size=3", CARD, "nothing is called size; known: cls"),
        ("tokens", "?cls=true&output=a", CARD, "no dictionary with 'a'"),
    ],
)
def test_what_the_file_does_not_say_must_be_stated(
    files: Any, output: str, stated: str, card: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(f"exported:{files[output][1]}{stated}", card=card)


def test_weights_from_elsewhere_and_absent_files_are_refused(files: Any, tmp_path: Path) -> None:
    name = f"exported:{files['tokens'][1]}?cls=true"
    with pytest.raises(ConfigError, match="holds its weights; leave out random:"):
        load(f"random:{name}", card=CARD)
    with pytest.raises(ConfigError, match="holds its weights; leave out --checkpoint"):
        load(name, checkpoint=files["dict"][1], card=CARD)
    with pytest.raises(UnknownNameError, match="no file"):
        load(f"exported:{tmp_path}/absent.pt2", card=CARD)


def test_a_batch_of_one_size_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Small().eval(), (torch.zeros(2, 3, 32, 32),)), tmp_path / "two.pt2")
    with pytest.raises(ConfigError, match=r"images \[2, 3, 32, 32\]; expected one of .* dynamic batch"):
        load(f"exported:{tmp_path / 'two.pt2'}?cls=true", card=CARD)


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def rewritten(
    source: Path, target: Path, change: Callable[[dict[str, bytes]], None], kind: int = ZIP_STORED
) -> Path:
    with ZipFile(source) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    change(content)
    with ZipFile(target, "w", kind) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return target


def edit(place: str, *path: Any) -> Callable[[dict[str, bytes]], None]:
    """Return a function that puts the last of ``path`` where the others lead in a JSON file of an archive."""

    def change(content: dict[str, bytes]) -> None:
        (name,) = (name for name in content if name.endswith(place))
        whole = json.loads(content[name])
        *way, last, value = path
        part = whole
        for step in way:
            part = part[step] if not isinstance(step, str) or step in part else part.setdefault(step, {})
        part[last] = value
        content[name] = json.dumps(whole).encode()

    return change


def pickled(place: str) -> Callable[[dict[str, bytes]], None]:
    def change(content: dict[str, bytes]) -> None:
        root = next(iter(content)).partition("/")[0]
        buffer = io.BytesIO()
        torch.save(Evil(), buffer)
        content[f"{root}/{place}"] = buffer.getvalue()

    return change


def called(target: str) -> Callable[[dict[str, bytes]], None]:
    return edit("model.json", "graph_module", "graph", "nodes", 0, "target", target)


def sized(expression: str) -> Callable[[dict[str, bytes]], None]:
    meta = {"sizes": [{"as_expr": {"expr_str": expression}}]}
    return edit("model.json", "graph_module", "graph", "tensor_values", "x", meta)


def emptied(content: dict[str, bytes]) -> None:
    content[next(name for name in content if name.endswith("weight_0"))] = b""


CODE = "__import__('pathlib').Path('executed').touch()"
TREE = '[1, {"type": "collections.defaultdict", "context": "x", "children_spec": []}]'
SIGNATURE = ("graph_module", "module_call_graph", 0, "signature")
WEIGHT = ("config", "cls", "use_pickle")
NO_OPERATOR, NO_TENSOR = "no operator of ATen", "is no tensor stored as it is"
ATTACKS: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "a function of torch": (called("torch.hub.load"), NO_OPERATOR),
    "a module of torch": (called("torch.os.system"), NO_OPERATOR),
    "an operator with a file": (called("torch.ops.aten.from_file.default"), NO_OPERATOR),
    "an operator of the interpreter": (called("torch.ops.aten.save.default"), NO_OPERATOR),
    "another library": (called("torch.ops.mine.op.default"), NO_OPERATOR),
    "python in a size": (sized(CODE), "is no sum or product"),
    "a power in a size": (sized("9**9**9"), "is no sum or product"),
    "a symbol that is code": (edit("model.json", "range_constraints", CODE, {}), "is no symbol"),
    "a tree that imports": (edit("model.json", *SIGNATURE, "out_spec", TREE), "inputs or outputs"),
    "a pickled weight": (edit("model_weights_config.json", *WEIGHT, True), "is pickled"),
    "weights of a former version": (pickled("data/weights/model.pt"), NO_TENSOR),
    "an object": (pickled("data/constants/opaque_obj_0"), NO_TENSOR),
    "compiled code": (pickled("data/aotinductor/model/x.so"), NO_TENSOR),
    "sample inputs": (pickled("data/sample_inputs/model.pt"), "read without running it"),
    "a weight without content": (emptied, "has no content"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_not_known_to_be_data_is_refused_and_not_run(
    files: Any, attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = ATTACKS[attack]
    path = rewritten(files["tokens"][1], tmp_path / "evil.pt2", change)
    with pytest.raises(WeightsError, match=message):
        load(f"exported:{path}?cls=true", card=CARD)
    assert not (tmp_path / "executed").exists()


def test_guards_are_python_and_are_left_out(
    files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = rewritten(files["tokens"][1], tmp_path / "evil.pt2", edit("model.json", "guards_code", [CODE]))
    backbone = load(f"exported:{path}?cls=true", card=CARD)
    backbone(torch.rand(2, 3, 32, 32))
    assert not (tmp_path / "executed").exists()


def test_bombs_pickles_and_rubbish_are_refused(files: Any, tmp_path: Path) -> None:
    bomb = rewritten(files["tokens"][1], tmp_path / "bomb.pt2", lambda _: None, ZIP_DEFLATED)
    (tmp_path / "rubbish.pt2").write_bytes(b"PK" + bytes(100))
    (tmp_path / "pickle.pt2").write_bytes(pickle.dumps({"a": 1}))
    rubbish, pickle_ = tmp_path / "rubbish.pt2", tmp_path / "pickle.pt2"
    for path, message in ((bomb, "compressed"), (rubbish, "no program"), (pickle_, "no program")):
        with pytest.raises(WeightsError, match=message):
            load(f"exported:{path}?cls=true", card=CARD)
