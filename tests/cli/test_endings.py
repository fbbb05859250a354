# ruff: noqa: F811
"""How commands end: one line and exit code 2 for every fault that is not ours."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ssleval.backbones.zoo import load
from ssleval.core import datasets
from ssleval.core.files import write_atomically
from ssleval.core.registry import Registry
from ssleval.errors import ContractError
from tests.cli.command_reference import leaves, options
from tests.cli.test_cli import Cli, cli  # noqa: F401  # pyright: ignore[reportUnusedImport]

COMMANDS: dict[str, Any] = dict(leaves())
NEEDED = {
    "run": ["--model", "pixels"],
    "doctor": ["pixels"],
    "features": ["--model", "pixels", "--out", "out.npz"],
    "compare": ["a", "b"],
    "gate": ["--suite", "ci", "--baseline", "pixels", "--candidate", "pixels"],
    "train": ["--out", "out"],
    "show": ["pixels"],
    "show classes": ["pixels"],
    "show train": ["out"],
    "ls": ["models"],
    "export checkpoint": ["last.pt", "--out", "out.pth"],
    "export scenes": ["out"],
    "export results": ["out", "--to", "csv"],
    "cache prune": ["--max-size", "0"],
    "datasets check": ["digits"],
    "leaks": ["digits"],
    "similarity": ["pixels", "dino_scenes"],
}
"""What a command cannot do without."""


def commands_with(option: str) -> list[str]:
    """Return every command that takes an option: a new command is tested by itself."""
    return [name for name, command in COMMANDS.items() if any(option in one.opts for one in options(command))]


def line_of(name: str, *arguments: str) -> list[str]:
    """Return a whole command line."""
    return [*name.split(), *NEEDED.get(name, []), *arguments]


MODEL = """import torch
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Tokens

class Mean(Backbone):
    def __init__(self):
        card = BackboneCard("m", "python_file", "m", embed_dim=3, patch_size=8, image_size=8, resize=8)
        super().__init__(card, num_blocks=1)

    def extract(self, images, blocks, *, norm):
        mean = images.mean((2, 3))
        {body}

def make():
    return Mean()

def F(pooled, blocks):
    return unchecked(Features, pooled=pooled, blocks=blocks)

def T(patches, cls=None, registers=None):
    return unchecked(Tokens, patches=patches, cls=cls, registers=registers)

def unchecked(kind, **fields):
    # Tests check the types of constructors, which users do not.
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made
"""
"""The body of `extract` is line 12."""
RUN = ["--task", "knn", "--dataset", "digits", "--limit", "60", "--set", "knn.ks=5"]


def refused(cli: Cli, *arguments: str | Path) -> str:
    """Run a command that ends with 2 and one line, and return that line."""
    code, out, err = cli(*arguments)
    assert (code, out) == (2, ""), (code, out, err)
    (line,) = err.splitlines()
    assert line.startswith("ssleval: ")
    return line


def model_file(cli: Cli, body: str) -> str:
    (cli.folder / "model.py").write_text(MODEL.format(body=body))
    return "model.py:make"


# Arguments


WRONG_DEVICES = ["cuda:99", "cuda:-1", "cuda:", "tpu", "", "meta", "xla", "cpu:1", "CUDA", "0"]


@pytest.mark.parametrize("name", commands_with("--device"))
def test_a_device_that_is_not_here(cli: Cli, name: str) -> None:
    for device in WRONG_DEVICES if name == "doctor" else ["cuda:99", "meta"]:
        assert "device" in refused(cli, *line_of(name, "--device", device))
    assert not [path for path in cli.folder.iterdir() if path.name != "cache"], "nothing was begun"


@pytest.mark.parametrize("seed", ["-1", str(2**32), str(10**40)])
@pytest.mark.parametrize("option", ["--seed", "--seeds"])
def test_seeds_that_no_generator_takes(cli: Cli, option: str, seed: str) -> None:
    named = list(commands_with(option))
    assert named
    for name in named:
        assert "seed" in refused(cli, *line_of(name, option, seed))


@pytest.mark.parametrize("name", COMMANDS)
def test_nul_and_empty_arguments(cli: Cli, name: str) -> None:
    for argument in ("a\0b", "--cache=a\0b"):
        assert "NUL" in refused(cli, *line_of(name, argument))
    for empty in (["--cache", ""], ["--cache="], [""]):
        assert "is empty" in refused(cli, *line_of(name, *empty))


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_with_a_typo(cli: Cli, name: str) -> None:
    if name in {"show", "show scenes", "show train"}:
        pytest.skip("what is no option of `show` is one of its fallback")
    for parameter in COMMANDS[name].params:
        option = parameter.opts[0]
        if len(option) > 4 and option.startswith("--"):
            line = refused(cli, *name.split(), f"{option[:-1]}zz", "x")
            assert (f"no option {option[:-1]}zz" in line, option in line) == (True, True), line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ruin"], ["no command 'ruin'", "did you mean run"]),
        (["cache", "claer"], ["cache: no command 'claer'", "did you mean clear?"]),
        (["ls", "modles"], ["did you mean models?"]),
        (["run", "--model", "pixels", "--precision", "fp31"], ["--precision 'fp31'", "did you mean fp32"]),
        (["run", "--model", "pixels", "--limit", "x"], ["--limit", "integer"]),
        (["run", "--model", "pixels", "--num-workers", "-1"], ["--num-workers", "0"]),
        (["run", "--model"], ["--model"]),
        (["run"], ["--model is missing", "ssleval run --help"]),
        (["run", "--model", "pixels", "extra"], ["extra"]),
        (["export", "checkpoint", "--out", "x"], ["source is missing"]),
        (["--versoin"], ["did you mean --version?"]),
        (["run", "--model", ","], ["no model was named"]),
        (["run", "--model", " , "], ["no model was named"]),
    ],
    ids=" ".join,
)
def test_usage_errors_are_one_line(cli: Cli, arguments: list[str], words: list[str]) -> None:
    line = refused(cli, *arguments)
    for word in words:
        assert word in line


def test_help_and_a_group_without_a_command_are_for_reading(cli: Cli) -> None:
    code, out, _ = cli("run", "--help")
    assert (code, out.count("\n") > 20) == (0, True)
    code, out, err = cli("cache")
    assert (code, "prune" in out + err) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "PATH", "pixels"],
        ["gate", "--suite", "ci", "--baseline", "PATH", "--candidate", "pixels"],
        ["gate", "--suite", "ci", "--baseline", "pixels", "--candidate", "PATH"],
        ["verify", "PATH"],
        ["verify", "--results", "PATH"],
        ["leaderboard", "PATH"],
        ["report", "--results", "PATH"],
        ["report", "--training", "PATH"],
        ["doctor", "PATH"],
        ["doctor", "vit_tiny", "--checkpoint", "PATH"],
        ["show", "PATH"],
        ["show", "pixels", "PATH"],
        ["show", "train", "PATH"],
        ["export", "checkpoint", "PATH", "--out", "x.pth"],
        ["run", "--model", "PATH"],
    ],
    ids=" ".join,
)
def test_a_path_that_is_not_there(cli: Cli, arguments: list[str]) -> None:
    if arguments[0] == "report":
        (cli.folder / "results").mkdir()
    for path in ("results/none", "./none.pth", "none/", "none.json", "none.safetensors"):
        line = refused(cli, *(path if word == "PATH" else word for word in arguments))
        assert path.rstrip("/").removeprefix("./") in line
        assert ("no model" in line, "did you mean" in line) == (False, False), line


def test_a_folder_that_is_no_model_is_called_a_folder(cli: Cli) -> None:
    (cli.folder / "photos").mkdir()
    assert "photos/ is a folder, not a model" in refused(cli, "run", "--model", "photos/")


def test_a_file_of_python_wants_a_function_and_names_those_it_has(cli: Cli) -> None:
    (cli.folder / "mine.py").write_text("import torch\n\ndef build():\n    return 1\n")
    assert refused(cli, "run", "--model", "mine.py").endswith("the model: mine.py:FUNCTION")
    assert refused(cli, "run", "--model", "mine.py:model").endswith("mine.py has no 'model'; known: build")


@pytest.mark.parametrize("margin", ["inf", "nan", "knn=inf", "knn=nan", "knn=0", "knn=-1", "knn=1e400"])
def test_margins_that_pass_everything(cli: Cli, margin: str) -> None:
    assert "--margin" in refused(cli, *line_of("gate", "--margin", margin))


def test_a_margin_of_a_whole_fraction_passes_everything_too(cli: Cli) -> None:
    (cli.folder / "s.yaml").write_text(
        "measurements:\n  - {task: knn, dataset: digits, settings: {ks: [5]}}\n"
    )
    line = ["gate", "--suite", "s.yaml", "--baseline", "pixels", "--candidate", "pixels", "--limit", "60"]
    assert "0.01 is a point" in refused(cli, *line, "--margin", "knn=1", "--quiet")


def test_sizes_are_written_as_people_write_them(cli: Cli) -> None:
    for size in ("50GB", "50gb", "50G", "0"):
        assert cli("cache", "prune", "--max-size", size)[0] == 0
    for size in ("GB", "5.5G", "-1", "1e9", "9" * 30, "\u0665G"):
        assert size in refused(cli, "cache", "prune", "--max-size", size)


# Code of others

FAULTY = {
    "def make(:\n": ":1: SyntaxError",
    "import sys\nimport not_a_module\n": ":2: ModuleNotFoundError: No module named 'not_a_module'",
    "def make():\n    raise ValueError('mine')\n": ":2: ValueError: mine",
    "def make():\n    return make()\n": ":2: RecursionError",
    "def make():\n    raise MemoryError\n": ":2: MemoryError",
    "def make():\n    class Own(BaseException): ...\n    raise Own('x')\n": ":3: Own: x",
    "import sys\nsys.exit(0)\n": ":2: SystemExit: 0",
    "import sys\ndef make():\n    sys.exit()\n": ":3: SystemExit",
    "import os\ndef make():\n    os._exit(0)\n": ":3: SystemExit: os._exit(0)",
    "def make(size):\n    pass\n": "TypeError: make() missing 1 required positional argument",
    "def make():\n    return 3\n": "returned int",
    "make = None\n": "TypeError",
    MODEL.format(body="pass").replace(
        "super().__init__(card, num_blocks=1)", "torch.nn.Module.__init__(self)"
    ): "super().__init__",
}
COMMANDS_OF_MODELS = {
    "run": ["run", "--model", "model.py:make", *RUN],
    "run --dry-run": ["run", "--model", "model.py:make", *RUN, "--dry-run"],
    "show": ["show", "model.py:make", "--dataset", "digits"],
    "gate": [
        "gate",
        "--suite",
        "ci",
        "--limit",
        "60",
        "--baseline",
        "model.py:make",
        "--candidate",
        "pixels",
    ],
}


@pytest.mark.parametrize("text", FAULTY, ids=lambda text: FAULTY[text])
def test_a_model_file_that_fails_is_named_with_the_line(cli: Cli, text: str) -> None:
    (cli.folder / "model.py").write_text(text)
    leave = os._exit
    line = refused(cli, "doctor", "model.py:make")
    assert line.startswith("ssleval: model.py:make")
    assert FAULTY[text] in line
    assert os._exit is leave


@pytest.mark.parametrize("command", COMMANDS_OF_MODELS)
def test_every_command_that_takes_a_model_says_so(cli: Cli, command: str) -> None:
    (cli.folder / "model.py").write_text("import sys\nsys.exit(0)\n")
    assert "model.py:2: SystemExit: 0" in refused(cli, *COMMANDS_OF_MODELS[command])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise KeyError('x')", "model.py:12: KeyError: 'x'"),
        ("import sys; sys.exit(0)", "model.py:12: SystemExit: 0"),
        ("import os; os._exit(0)", "model.py:12: SystemExit: os._exit(0)"),
        ("return torch.zeros(2, 3) @ mean", "model.py:12: RuntimeError: mm: mat1 and mat2"),
        ("return None", "extract returned NoneType"),
        ("return mean, ()", "extract returned tuple"),
        ("return F(mean.numpy(), ())", "pooled is ndarray"),
        ("return F(mean[0], ())", "pooled (3,)"),
        ("return F((mean * 10).long(), ())", "pooled has torch.int64"),
        ("return F(mean.to(torch.complex64), ())", "pooled has torch.complex64"),
        ("return F(mean.to_sparse(), ())", "torch.sparse_coo"),
        ("return F(mean.to('meta'), ())", "pooled is on meta, its images are on cpu"),
        ("return F(mean, None)", "NoneType blocks"),
        ("return F(mean, (mean,))", "1 blocks, expected a tuple of 0"),
        ("return F(mean.double() * float('nan'), ())", "not finite"),
    ],
)
def test_what_extract_does_wrong_is_said(cli: Cli, body: str, words: str) -> None:
    model_file(cli, body)
    assert words in refused(cli, *COMMANDS_OF_MODELS["run"])


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("mean", "a block is Tensor, expected Tokens"),
        ("T(mean)", "patches"),
        ("T(mean[:, None, None], mean[0])", "cls (3,)"),
        ("T(mean[:, None, None], mean, mean)", "registers"),
        ("T(mean[:, None, None].int())", "patches has torch.int32"),
    ],
)
def test_what_blocks_hold_is_looked_at(cli: Cli, tokens: str, words: str) -> None:
    model_file(cli, f"return F(mean, tuple({tokens} for _ in blocks))")
    with pytest.raises(ContractError, match="make") as caught:
        load("model.py:make")(torch.zeros(2, 3, 8, 8), (0,))
    assert words in str(caught.value)


TEXT = """
    def similarity(self):
        {similarity}

    def encode_text(self, texts):
        {encoded}

    def attention(self, images):
        {attention}

def make"""


@pytest.mark.parametrize(
    ("part", "body", "words"),
    [
        ("encoded", "raise KeyError('t')", "KeyError: 't'"),
        ("encoded", "return [1]", "encode_text is list"),
        ("encoded", "return torch.ones(3)", "encode_text (3,)"),
        ("encoded", "return torch.ones(1, 3)", "encode_text (1, 3)"),
        ("encoded", "return torch.ones(len(texts), 7)", "7)"),
        ("similarity", "return None", "similarity is no Similarity"),
        ("similarity", "import sys; sys.exit(0)", "SystemExit: 0"),
    ],
)
def test_a_text_tower_that_fails(cli: Cli, part: str, body: str, words: str) -> None:
    right = {"similarity": "return Similarity(1.0)", "encoded": "return torch.ones(len(texts), 3)"}
    tower = TEXT.format(**{"attention": "pass", **right, part: body})
    text = MODEL.format(body="return F(mean, ())").replace("\ndef make", tower, 1)
    (cli.folder / "model.py").write_text("from ssleval.core.backbone import Similarity\n" + text)
    line = refused(cli, "run", "--model", "model.py:make", "--task", "zeroshot", *RUN[2:6], "--quiet")
    assert ("model.py" in line, words in line) == (True, True), line


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise KeyError('a')", "KeyError: 'a'"),
        ("return images.mean((1, 2, 3))", "attention (1,)"),
        ("pass", "NoneType"),
    ],
)
def test_attention_that_fails(cli: Cli, body: str, words: str) -> None:
    maps = TEXT.format(similarity="pass", encoded="pass", attention=body)
    tokens = "return F(mean, tuple(T(mean[:, None, None], mean) for _ in blocks))"
    (cli.folder / "model.py").write_text(MODEL.format(body=tokens).replace("\ndef make", maps, 1))
    Image.new("RGB", (8, 8)).save(cli.folder / "a.png")
    line = refused(cli, "show", "model.py:make", "a.png", "--what", "attention")
    assert ("model.py" in line, words in line) == (True, True), line


def test_a_helper_of_the_model_is_named_where_it_fails(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(cli.folder))
    (cli.folder / "helper_of_model.py").write_text("def read(x):\n    return x['k']\n")
    model_file(cli, "import helper_of_model; return helper_of_model.read({})")
    assert "helper_of_model.py:2: KeyError: 'k'" in refused(cli, *COMMANDS_OF_MODELS["run"])


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"measurements: &a [*a]", b"[" * 3000 + b"]" * 3000, b"a\0"]
)
def test_suites_that_are_no_text(cli: Cli, content: bytes) -> None:
    (cli.folder / "s.yaml").write_bytes(content)
    assert refused(cli, "run", "--model", "pixels", "--suite", "s.yaml")


def test_a_faulty_model_does_not_stop_the_others(cli: Cli) -> None:
    model_file(cli, "raise KeyError('x')")
    code, out, err = cli("run", "--model", "model.py:make,pixels", *RUN, "--quiet")
    assert (code, "pixels  knn/digits" in out, err.count("\n")) == (2, True, 1)


def test_doctor_shows_the_line_and_goes_on(cli: Cli) -> None:
    model_file(cli, "raise KeyError('x')")
    code, out, err = cli("doctor", "model.py:make", "--limit", "50")
    assert (code, err) == (1, "")
    assert "model.py:12: KeyError" in out


def test_ctrl_c_within_a_model_is_ctrl_c(cli: Cli) -> None:
    model_file(cli, "raise KeyboardInterrupt")
    code, _, err = cli("run", "--model", "model.py:make", *RUN)
    assert (code, err.count("\n"), "interrupted" in err) == (130, 1, True)
    code, _, err = cli("show", "model.py:make", "--dataset", "digits")
    assert (code, err) == (130, "ssleval: interrupted\n")
    model_file(cli, "stop = KeyboardInterrupt(); stop.add_note('a fit is lost'); raise stop")
    code, _, err = cli("run", "--model", "model.py:make", *RUN)
    assert (code, err.splitlines()[0], err.count("\n")) == (130, "ssleval: a fit is lost", 2)


# Plug-ins

PLUG_INS = {
    "ssleval.tasks": ["run", "--model", "pixels", "--dataset", "digits", "--task", "NAME"],
    "ssleval.datasets": ["run", "--model", "pixels", "--dataset", "NAME"],
    "ssleval.backbones": ["run", "--model", "NAME:x"],
}
BROKEN = {
    "not_there:thing": "ModuleNotFoundError",
    "broken:absent": "AttributeError",
    "broken:number": "int 3 is no",
    "raising:x": "raising.py:1: ZeroDivisionError",
    "leaving:x": "SystemExit",
    "typo:x": "typo.py:1: SyntaxError",
}


def plug_in(folder: Path, lines: dict[str, str]) -> None:
    """Install a package that offers ``lines`` (name = module:attribute) to every group."""
    (folder / "plugged-1.dist-info").mkdir(parents=True)
    (folder / "plugged-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1\n")
    text = "\n".join(f"{name} = {value}" for name, value in lines.items())
    (folder / "plugged-1.dist-info/entry_points.txt").write_text(
        "".join(f"[{group}]\n{text}\n" for group in PLUG_INS)
    )
    for name, code in {
        "broken": "number = 3",
        "raising": "1 / 0",
        "leaving": "import sys; sys.exit()",
        "typo": "def (",
        "wrong": "def card(x): raise OSError('gone')\ndef opened(location, options): return 3\n"
        "def failing(location, options): return {}['x']\n",
    }.items():
        (folder / f"{name}.py").write_text(code)


@pytest.fixture
def plugged(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    names = {f"p{number}": value for number, value in enumerate(BROKEN)}
    plug_in(cli.folder / "site", {**names, "opens3": "wrong:opened", "fails": "wrong:failing"})
    # Plug-ins that load stay registered; other tests are to see none of these.
    assert "digits" in datasets
    monkeypatch.setattr(datasets, "_items", dict(datasets._items))
    monkeypatch.syspath_prepend(str(cli.folder / "site"))
    return cli


@pytest.mark.parametrize("group", PLUG_INS)
def test_a_broken_plug_in_is_named_and_stands_in_nobodys_way(plugged: Cli, group: str) -> None:
    for number, (value, words) in enumerate(BROKEN.items()):
        line = refused(plugged, *(word.replace("NAME", f"p{number}") for word in PLUG_INS[group]))
        assert (value in line, words in line) == (True, True), line
    for what in ("models", "tasks", "datasets", "suites"):
        assert plugged("ls", what)[0] == 0
    code, out, _ = plugged("run", "--model", "pixels", *RUN)
    assert (code, "knn/digits" in out) == (0, True)


def test_a_plug_in_never_takes_the_place_of_ours(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(cli.folder / "site", {"mine": "broken:number", "digits": "wrong:opened"})
    monkeypatch.syspath_prepend(str(cli.folder / "site"))
    registry = Registry[Any]("dataset", "ssleval.datasets.sets")
    registry.register("digits")(len)
    monkeypatch.setattr("ssleval.datasets.catalog.datasets", registry)
    line = refused(cli, "run", "--model", "pixels", *RUN)
    assert "wrong:opened claims dataset 'digits' of ssleval" in line


def test_a_dataset_plug_in_that_opens_something_else(plugged: Cli) -> None:
    assert "returned int, not a Dataset" in refused(
        plugged, "run", "--model", "pixels", "--dataset", "opens3"
    )
    line = refused(plugged, "run", "--model", "pixels", "--dataset", "fails:x")
    assert "wrong.py:3: KeyError: 'x'" in line


# Streams, disks, and what Python itself cannot do


def test_a_question_that_nobody_answers(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = cli("cache", "clear")
    assert (code, "Aborted" in err, "not confirmed" in err.splitlines()[-1]) == (2, False, True)


@pytest.fixture
def unread() -> Iterator[Any]:
    """A pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    yield stream
    with suppress(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize(
    "arguments", [["ls", "models"], ["ls", "tasks", "--json"], ["--help"], ["--version"]]
)
def test_nobody_reads_on(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, unread: Any, arguments: list[str]
) -> None:
    monkeypatch.setattr("ssleval.cli.endings._pipe_closed", lambda: 141)
    monkeypatch.setattr("sys.stdout", unread)
    assert cli(*arguments)[0] == 141


def test_an_output_that_is_full(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115
    monkeypatch.setattr("sys.stdout", full)
    assert "No space left on device" in refused(cli, "ls", "tasks")
    with suppress(OSError):
        full.close()


def test_streams_that_are_closed(cli: Cli) -> None:
    line = f"{sys.executable} -m ssleval ls tasks >&- 2>&- <&-"
    assert subprocess.run(["bash", "-c", line], cwd=cli.folder, check=False).returncode == 0


def test_without_a_home(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "SSLEVAL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert cli("cache", "info")[0] == 0


def test_notes_that_nobody_reads_do_not_stop_the_work(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, unread: Any
) -> None:
    monkeypatch.setattr("sys.stderr", unread)
    assert cli("run", "--model", "pixels", *RUN)[0] == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "big.npy"), "big.npy: No space left on device"),
        (OSError(errno.EXDEV, "Cross", "a", None, "b"), "a -> b: Cross"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("cannot identify image file"), "cannot identify image file"),
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "--num-workers"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (OverflowError("int too large to convert"), "int too large"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start byte"),
        (ValueError("embedded null byte"), "embedded null byte"),
    ],
)
@pytest.mark.parametrize("name", COMMANDS)
def test_what_no_code_of_ours_is_to_blame_for(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, words: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    # Whatever the command does, that is what it meets.
    monkeypatch.setattr("typer.core.TyperCommand.invoke", fail)
    assert words in refused(cli, *line_of(name))


def test_a_full_disk_says_which_file(tmp_path: Path) -> None:
    def full(draft: Path) -> None:
        with draft.open("wb", buffering=0), Path("/dev/full").open("wb", buffering=0) as nowhere:
            nowhere.write(b"x")

    def as_torch_says_it(draft: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:659] . No space left on device")

    def of_another_kind(_: Path) -> None:
        raise RuntimeError("mine")

    for save in (full, as_torch_says_it):
        with pytest.raises(OSError, match="No space left on device") as caught:
            write_atomically(tmp_path / "best.pt", save)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "best.pt"))
        assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="mine"):
        write_atomically(tmp_path / "best.pt", of_another_kind)
