import importlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ssleval
from ssleval.cli import main
from ssleval.core import Context
from ssleval.errors import ConfigError, ContractError, SslevalError, UnknownNameError
from ssleval.features import decode
from ssleval.live import Evaluator
from ssleval.live.evaluator import _unwrapped
from ssleval.live.untouched import untouched
from tests.live.live_fakes import FAST, WRAP, Net, knn, trained_state

HERE = Path(__file__).parent
FEW = {"severities": (3,), "types": ("contrast",), "items": 20, "head": "knn"}
CHEAP = {"count": 3, "preprocessing": "card"}


def run(tasks: str, net: nn.Module, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    torch.save(net.state_dict(), "net.pt")
    monkeypatch.setenv("LIVE_STATE", "net.pt")
    model = f"{HERE / 'live_fakes.py'}:saved"
    words = ["run", "--model", model, "--task", tasks, "--json", "--limit", "60", "--device", "cpu", *options]
    monkeypatch.setattr("sys.argv", ["ssleval", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code


@pytest.mark.parametrize(
    ("tasks", "dataset", "settings"),
    [
        ("knn,spectrum", "digits", {"knn": {"ks": (5, 1), "preprocessing": "card"}}),
        ("logreg", "digits", {"logreg": {"count": 5, "preprocessing": "card"}}),
        (
            "corruptions",
            "digits",
            {"corruptions": {"severities": (3,), "types": ("contrast",), "items": 20, "head": "knn"}},
        ),
    ],
)
def test_scores_are_those_of_run_on_the_saved_checkpoint_to_the_bit(
    tasks: str,
    dataset: str,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    net = Net()
    trained_state(net)
    names = tasks.split(",")
    evaluator = Evaluator(names, dataset, jsonl="live.jsonl", wrap=WRAP, settings=settings, limit=60)
    values = evaluator(0, net)
    texts = [
        f"--set={task}.{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for task, fields in settings.items()
        for name, value in fields.items()
    ]
    run(tasks, net, monkeypatch, "--dataset", dataset, *texts)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    line = json.loads(Path("live.jsonl").read_text())
    stored = {
        f"{row['task']}/{row['dataset']}/{name}": {key: score[key] for key in ("value", "ci95", "n")}
        for row in rows
        for name, score in row["metrics"].items()
    }
    assert line["scores"] == stored
    assert values == {name: score["value"] for name, score in stored.items()}
    assert line["weights_sha256"] == rows[0]["weights_sha256"]


def numpys() -> Any:
    state: Any = np.random.get_state()
    return state[1:3]


def everything(net: Net) -> list[Any]:
    return [
        [(name, part.training) for name, part in net.named_modules()],
        [(name, weight.requires_grad, weight.device) for name, weight in net.named_parameters()],
        *[tensor.clone() for tensor in (*net.parameters(), *net.buffers())],
        *[None if weight.grad is None else weight.grad.clone() for weight in net.parameters()],
        *numpys(),
        torch.get_rng_state(),
    ]


def same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    return bool(np.array_equal(one, two)) if isinstance(one, np.ndarray) else one == two


@pytest.mark.parametrize("training", [True, False])
def test_the_module_and_what_is_random_stay_as_they_are(training: bool) -> None:
    net = Net().train(training)
    net.frozen.eval()
    trained_state(net)
    settings = {**FAST["settings"], "logreg": CHEAP}
    tasks = ("knn", "spectrum", "logreg")
    evaluator = Evaluator(tasks, "digits", jsonl=None, wrap=WRAP, limit=60, settings=settings)
    before = everything(net)
    evaluator(0, net)
    after = everything(net)
    assert [same(one, two) for one, two in zip(before, after, strict=True)] == [True] * len(before)


def test_random_states_are_those_of_before() -> None:
    # By itself: the type checks of these tests draw from Python's.
    net = Net()
    before = random.getstate(), numpys(), torch.get_rng_state()
    with untouched(net):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
    after = random.getstate(), numpys(), torch.get_rng_state()
    assert before[0] == after[0]
    assert np.array_equal(before[1][0], after[1][0])
    assert before[1][1] == after[1][1]
    assert torch.equal(before[2], after[2])


def test_a_training_takes_the_same_course_with_and_without(tmp_path: Path) -> None:
    courses: list[list[Tensor]] = []
    for evaluator in (None, knn(tmp_path / "live.jsonl")):
        net = Net()
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        torch.manual_seed(1)
        for step in range(3):
            loss = net(torch.randn(4, 3, 32, 32)).square().mean()
            if evaluator is not None:
                # Between forward and backward: the graph must still be good.
                evaluator(step, net)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        courses.append([*net.state_dict().values()])
    assert all(torch.equal(one, two) for one, two in zip(*courses, strict=True))


def test_a_method_that_takes_adapters_in_takes_them_out_again() -> None:
    class Merged(Net):
        merged = False

        def train(self, mode: bool = True) -> "Merged":
            self.merged = not mode
            return super().train(mode)  # pyright: ignore[reportReturnType]

    net = Merged().train()
    knn()(0, net)
    assert not net.merged
    assert not net.frozen.eval().training


@pytest.mark.parametrize("around", ["autocast", "inference", "no_grad", "tf32"])
def test_what_surrounds_the_call_does_not_move_scores(around: str) -> None:
    net = Net()
    # A head that is trained by gradients.
    linear = {"inputs": "pooled", "iterations": 3, "learning_rates": (0.1,)}
    settings = {**FAST["settings"], "linear": linear}
    evaluator = Evaluator(("knn", "linear"), "digits", jsonl=None, wrap=WRAP, limit=60, settings=settings)
    expected = evaluator(0, net)
    before = torch.get_float32_matmul_precision()
    seen: list[str] = []
    products: Any = importlib.import_module("torch.backends.mkldnn").matmul

    def look(*_: Any) -> None:
        seen.append(products.fp32_precision)

    net.register_forward_hook(look)
    if around == "tf32":
        torch.set_float32_matmul_precision("medium")
        inside: Any = torch.enable_grad()
    else:
        inside = {"autocast": torch.autocast("cpu", torch.bfloat16), "inference": torch.inference_mode(),
                  "no_grad": torch.no_grad()}[around]  # fmt: skip
    try:
        with inside:
            assert evaluator(1, net) == expected
            with untouched(net):
                assert torch.is_grad_enabled()
                assert not torch.is_inference_mode_enabled()
        assert (torch.get_float32_matmul_precision() == "medium") == (around == "tf32")
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) <= {"none", "ieee"}


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_decoded_once_where_memory_holds_them(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, decoded = Net(), list[int]()
    batches = decode.decoded_batches

    def counted(decoder: Any, wanted: Any, context: Context) -> Any:
        # Not those that are compared, one by one.
        decoded.extend(wanted if decoder.batch_size > 1 else ())
        return batches(decoder, wanted, context)

    monkeypatch.setattr("ssleval.features.decode.decoded_batches", counted)
    context = Context(device="cpu", num_workers=workers)
    size = 60 * 3 * 32 * 32
    # All of it, one split but for its last image's batch, nothing: batches of 32 and 28 of two splits.
    kept = knn(context=context)
    scores = [kept(step, net) for step in range(3)]
    assert decoded == [0, 1, 0, 1]
    assert kept._images.size <= kept._images.limit
    if workers:
        return
    decoded.clear()
    half = knn(memory_gb=size / 1e9)
    scores += [half(step, net) for step in range(2)]
    assert half._images.size <= size
    assert len(decoded) in {6, 7}
    decoded.clear()
    none = knn(memory_gb=0.0)
    scores += [none(step, net) for step in range(2)]
    assert decoded == [0, 1, 0, 1] * 2
    assert none._images.size == 0
    assert all(score == scores[0] for score in scores)


def test_features_are_written_only_where_they_are_asked_for(tmp_path: Path) -> None:
    net = Net()
    unwritten = knn()(0, net)
    assert not [*tmp_path.rglob("*.npy")]
    assert knn(store=tmp_path / "store")(0, net) == unwritten
    assert [*(tmp_path / "store").rglob("pooled.npy")]


def test_corrupt_images_are_left_out_as_by_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    from PIL import Image

    for split, count in (("train", 12), ("val", 6)):
        for label in "ab":
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3), np.uint8) + (100 if label == "a" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "data/train/a/3.png").write_bytes(b"no image")
    net, context = Net(), Context(device="cpu", skip_corrupt=True, cache=tmp_path / "cache")
    data: dict[str, Any] = {"dataset": f"folder:{tmp_path / 'data'}", "settings": {"knn": {"ks": (3,)}}}
    values = Evaluator("knn", jsonl=None, wrap=WRAP, context=context, **data)(0, net)
    (result,) = ssleval.evaluate(ssleval.wrap(net, **WRAP), "knn", context=context, **data)
    assert values is not None
    assert [*values.values()] == [score.value for score in result.metrics.values()]
    with pytest.raises(SslevalError, match=r"3\.png"):
        Evaluator("knn", jsonl=None, wrap=WRAP, **data)(0, net)


@pytest.mark.parametrize(
    ("every", "steps", "due"),
    [
        (1, (0, 1, 2), [0, 1, 2]),
        (3, range(8), [0, 3, 6]),
        (3, (1, 2, 3, 4), [3]),
        (10, (7, 9, 12, 14, 21), [12, 21]),  # two optimisers, or accumulated gradients
        (2, (2, 2, 2, 3, 4, 4), [2, 4]),
        (5, (9, 10, 4, 5), [10, 5]),  # begun again from an earlier checkpoint
    ],
)
def test_steps(every: int, steps: Any, due: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = knn(every=every)

    def nothing(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(Evaluator, "measure", nothing)
    monkeypatch.setattr(Evaluator, "_write", nothing)
    monkeypatch.setattr("ssleval.live.evaluator._line", nothing)
    assert [step for step in steps if evaluator(step, Net()) is not None] == due


def test_lines_are_added_and_half_a_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "new" / "live.jsonl"
    knn(path)(0, Net())
    first = path.read_bytes()
    path.write_bytes(first + b'{"step": 1, "sco')
    knn(path)(1, Net())
    content = path.read_bytes()
    assert content.startswith(first)
    assert [json.loads(line)["step"] for line in content.splitlines()] == [0, 1]
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        knn(path)


def stem(net: Any) -> nn.Module:
    return net.stem


class _Broken(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * float("nan")


def test_a_broken_model_ends_the_training_or_is_warned_of(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="not finite"):
        knn()(0, _Broken())
    net, path = _Broken().train(), tmp_path / "live.jsonl"
    with pytest.warns(UserWarning, match="step 0: not evaluated"):
        assert knn(path, errors="warn")(0, net) is None
    assert net.training
    assert "not finite" in json.loads(path.read_text())["error"]


@pytest.mark.parametrize(
    ("options", "module", "error", "message"),
    [
        ({"wrap": None}, Net(), ConfigError, r"module is a Net.*ssleval\.wrap\(module"),
        ({"wrap": stem}, Net(), ConfigError, r"wrap\(module\) is a Conv2d"),
        ({"every": 0}, None, ConfigError, "every=0"),
        ({"memory_gb": float("nan")}, None, ConfigError, "memory_gb=nan"),
        ({"log": "wanb"}, None, ConfigError, "wandb"),
        ({"settings": {"kn": {}}}, None, UnknownNameError, "knn"),
    ],
)
def test_what_cannot_be_is_refused(
    options: dict[str, Any], module: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        knn(**options)(0, module)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ConfigError, match="module is a str, no torch module"):
        _unwrapped("net")


def test_weights_on_two_devices_are_refused() -> None:
    backbone = ssleval.wrap(Net(), **WRAP)
    backbone.rest = nn.Linear(2, 2, device="meta")
    with pytest.raises(ConfigError, match="its weights are on cpu, meta"):
        knn(wrap=None)(0, backbone)


def test_the_module_within_a_parallel_one_and_a_backbone_are_taken() -> None:
    net = Net()
    expected = knn()(0, net)
    assert knn()(0, nn.DataParallel(net)) == expected
    backbone = ssleval.wrap(net, **WRAP)
    evaluator = knn(wrap=None)
    assert evaluator(0, backbone) == expected
    with torch.no_grad():
        net.last.weight.neg_()
        net.stem.weight.mul_(-3)
    changed = evaluator(1, backbone)
    assert changed == knn()(0, net)
    assert changed != expected


def test_other_processes_return_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "1")
    path = tmp_path / "live.jsonl"
    assert knn(path, log="tensorboard")(0, Net()) is None
    assert not path.exists()
