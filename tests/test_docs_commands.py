# ruff: noqa: F811
"""Every command line that the documentation prints is parsed, and is run where it can be.

Every spelling of a dataset that the documentation or `ls datasets` prints is opened through the command line.
"""

import io
import json
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from ssleval.backbones.zoo import load, match_models
from ssleval.cli.app import app
from ssleval.cli.cache import _bytes
from ssleval.cli.gate import _margin
from ssleval.core.registry import summaries
from ssleval.datasets.catalog import list_datasets
from ssleval.run.executors import read_launcher
from ssleval.run.measure import evaluate
from ssleval.run.parts import read_part
from ssleval.run.rehearse import Cost
from ssleval.run.settings import build_task, parse_settings
from ssleval.run.suites import read_suite
from ssleval.train import read_config
from tests.cli.command_reference import leaves
from tests.cli.test_cli import Cli, cli  # noqa: F401  # pyright: ignore[reportUnusedImport]

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
OWN = (
    "captions", "davis", "domains", "folder", "groups", "hf", "manifest", "masks", "rgbd", "rgbd_normals",
    "rgbd_pairs", "wds",
)  # fmt: skip
"""Sources of data that lie where the user says."""

NOT_RUN = {
    r"train ": "takes hours; tests/train",
    r"show train|.*--training": "needs a finished training; tests/display",
    r"show (?!train|scenes)": "needs published weights; tests/cli/test_cli_pictures.py",
    r"show scenes|export scenes": "renders for a minute; tests/datasets/scenes",
    r"export results .*--to hf": "what is measured here is of a part of the images; tests/display/publishing",
    r"export checkpoint": "needs a finished training; tests/train",
    r"doctor ": "needs published weights; tests/checks",
    r"gate ": "measures a suite twice; tests/checks",
    r"report .*--pictures": "needs pictures of models; tests/display/report",
    r"leaks |similarity |run .*--drop-leaks": "needs published data; tests/run/test_leaks.py",
    r"run .*--suite": "measures a suite; tests/run/test_suites.py",
    r"leaderboard .*--suite": "needs results on twelve published sets; tests/run/test_suites.py",
    r"run .*captions:": "no model with a text tower is here; its dataset is opened below",
    r"run .*--dataset (?!folder|masks|groups|rgbd|davis|digits)": "needs published data, or renders",
    r"run (?!.*--dataset)": "`scenes` renders for a minute; make demo",
    r"features .*--out features.npz": "`scenes` renders for a minute; tests/run",
    r"datasets check": "needs published data; tests/checks/test_copies.py",
    r"run .*(stripes|teacher)": "tests/backbones/test_docs_model.py, tests/train",
}
"""Why lines, by a pattern, are parsed and not run."""


def printed() -> dict[str, str]:
    """Return every command line of the fenced blocks, and the page that prints it."""
    lines: dict[str, str] = {}
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
                command = re.match(r"\s*(?:\$ |torchrun .* -m )?(ssleval (?!--)\S+.*)", line)
                if command:
                    # What follows two spaces says what the line does.
                    lines[re.split(r"\s{2,}|\s#", command[1])[0]] = page.name
    return lines


LINES = printed()


@cache
def parser() -> Any:
    """Return the real command line, whose commands return their name and their values, and do nothing."""
    group = typer.main.get_command(app)
    for name, command in leaves(command=group):
        command.callback = partial(named, name)
    return group


def named(command: str, /, **values: Any) -> tuple[str, dict[str, Any]]:
    """Return a command and the values of its parameters."""
    return command, values


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """Return the command and the values that the real parser makes of a line."""
    return parser().main(shlex.split(line)[1:], prog_name="ssleval", standalone_mode=False)


def test_lines_are_found() -> None:
    assert len(LINES) > 90
    assert {line.split()[1] for line in LINES} == {name.split()[0] for name, _ in leaves()}


@pytest.mark.parametrize("line", LINES)
def test_a_printed_line_is_understood(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    command, values = parsed(line)
    if values.get("part"):
        # Variables of an array stand for a number.
        assert read_part(re.sub(r"\$\(\(.*\)\)|\$\w+", "3", values["part"])).number == 3
    if values.get("launcher"):
        slurm = pytest.importorskip("submitit").SlurmExecutor
        monkeypatch.setattr(slurm, "affinity", lambda: 2)
        assert read_launcher(values["launcher"], values["launch"]).parameters
    for name in filter(None, [values.get("model"), values.get("candidate"), values.get("baseline")]):
        if "/" not in name and not name.startswith("stripes"):
            assert match_models(name)
    if command in {"run", "verify"}:
        assert set(filter(None, values["task"].split(","))) <= set(summaries("ssleval.tasks"))
        # A comma separates sets, but also the two folders of masks, or the two files of a set of images.
        names = [name.partition(":")[0] for name in re.split(r",(?=[a-z0-9_]+(?:[:,]|$))", values["dataset"])]
        assert set(names) <= {"", *list_datasets()}
    for name, fields in parse_settings(values.get("set_") or () if command == "run" else ()).items():
        build_task(name, fields)
    if command == "train":
        arch = [f"model.arch={values['arch']}"] if values["arch"] else []
        read_config(values["recipe"], [*arch, *(values["set_"] or ())])
    if values.get("suite"):
        assert read_suite(values["suite"])
    for margin in values.get("margin") or ():
        assert _margin(margin)[0] in summaries("ssleval.tasks")
    if "max_size" in values:
        assert _bytes(values["max_size"]) >= 0
    assert re.fullmatch(r"auto|cpu|cuda(:\d)?|mps", values.get("device", "cpu"))


# Miniatures


def image(path: str, level: int = 9) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level,) * 3).save(path)


def grey(path: str, values: np.ndarray) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def folder(where: str) -> None:
    for split, number in (("train", 24), ("val", 2)):
        for index in range(number):
            image(f"{where}/{split}/{'ab'[index % 2]}/{index}.png", 9 * index)


def domains(where: str) -> None:
    for number, path in enumerate(("art/a", "art/b", "photo/a", "photo/b")):
        image(f"{where}/{path}/x.png", 9 * number)


def masks(where: str) -> None:
    images, targets = where.split(",")
    for split in ("train", "val"):
        image(f"{images}/{split}/x.png")
        grey(f"{targets}/{split}/x.png", np.eye(8, dtype=np.uint8))
    Path(targets, "classes.txt").write_text("cat\ndog\n")


def groups(where: str) -> None:
    names = [f"g/{name}/{index}.png" for name in "ab" for index in (1, 2)]
    if where.endswith(".json"):
        Path(where).write_text(json.dumps({"groups": {"a": names[:2], "b": names[2:]}}))
    for level, name in enumerate(names):
        image(name if where.endswith(".json") else f"{where}{name[1:]}", 20 * level)


def captions(where: str) -> None:
    image("x.png")
    image("y.png", 90)
    rows = [{"path": "x.png", "caption": "a dark square"}, {"path": "y.png", "caption": "a grey square"}]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    lines = [json.dumps(row) for row in rows] if where.endswith(".jsonl") else lines
    Path(where).write_text("\n".join(lines) + "\n")


def manifest(where: str) -> None:
    folder("m")
    rows = [(str(path), path.parent.name, path.parts[1]) for path in sorted(Path("m").rglob("*.png"))]
    names = ("path", "label", "split")
    if where.endswith(".jsonl"):
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    else:
        lines = [",".join(row) for row in (names, *rows)]
    Path(where).write_text("\n".join([*lines, ""]))


def davis(where: str) -> None:
    for frame in ("00000", "00001"):
        image(f"{where}/JPEGImages/480p/c/{frame}.jpg")
        grey(f"{where}/Annotations/480p/c/{frame}.png", np.eye(8, dtype=np.uint8))
    listed = Path(where, "ImageSets/2017/val.txt")
    listed.parent.mkdir(parents=True)
    listed.write_text("c\n")


def frames(where: str) -> None:
    for number in range(6):
        image(f"{where}/f{number}.color.png")
        grey(f"{where}/f{number}.depth.png", np.full((8, 8), 1000 + number, np.uint16))
        angle, pose = np.radians(20 * number), np.eye(4)
        pose[0, [0, 2]], pose[2, [0, 2]] = (np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))
        np.savetxt(f"{where}/f{number}.pose.txt", pose)
    np.savetxt(f"{where}/camera-intrinsics.txt", [[5, 0, 3], [0, 5, 2], [0, 0, 1]])


def walls(where: str) -> None:
    frames(where)
    # Frames of 8 pixels have no room for an average.
    Path(where, "depth.yaml").write_text("radius: 0\n")


def shards(where: str) -> None:
    root = Path(where.split("{", maxsplit=1)[0] if "{" in where else where)
    numbers = [f"{number:03}" for number in range(13)] if ".." in where else ["000"]
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    for split in ("train", "test"):
        for number in numbers:
            path = root / split / f"{number}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(path, "w") as archive:
                for index in range(2):
                    for suffix, content in ((".png", picture.getvalue()), (".cls", str(index).encode())):
                        entry = tarfile.TarInfo(f"{number}{index}{suffix}")
                        entry.size = len(content)
                        archive.addfile(entry, io.BytesIO(content))


def hub_folder(where: str) -> None:
    hub = pytest.importorskip("datasets", reason="needs the optional datasets library")
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": picture.getvalue(), "path": None}] * 24, "label": [0, 1] * 12}
    made = hub.Dataset.from_dict(rows, features=features)
    hub.DatasetDict({"train": made, "test": made}).save_to_disk(where)


MADE: dict[str, tuple[Callable[[str], None], str]] = {
    "folder": (folder, "knn"),
    "manifest": (manifest, "knn"),
    "hf": (hub_folder, "knn"),
    "wds": (shards, "knn"),
    "masks": (masks, "segmentation"),
    "groups": (groups, "retrieval"),
    "captions": (captions, "caption_retrieval"),
    "davis": (davis, "video_segmentation"),
    "domains": (domains, "shift"),
    "rgbd": (frames, "depth"),
    "rgbd_normals": (walls, "normals"),
    "rgbd_pairs": (frames, "correspondence"),
}
"""Per source, what makes a miniature where a spelling says, and a task that it is for."""


def spellings() -> dict[str, str]:
    """Return every spelling of a dataset of one's own, and where it is printed."""
    pages = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
    pages["ls datasets"] = "\n".join(line for line in list_datasets().values() if isinstance(line, str))
    # The help of a source is the head of its module; there it may go on.
    pages |= {
        f"{path.stem}.py": path.read_text(encoding="utf-8").split('"""')[1] for path in SETS.glob("*.py")
    }
    pattern = rf"(?<![\w/.])(?:{'|'.join(OWN)}):[\w{{./][\w{{}},./@-]*"
    return {
        spelling.rstrip(".,"): name for name, text in pages.items() for spelling in re.findall(pattern, text)
    }


SETS = ROOT / "ssleval" / "datasets" / "sets"
SPELLINGS = {**spellings(), "wds:{train,test}/{000..012}.tar": "wds.py"}


def test_spellings_of_every_source_are_found() -> None:
    assert {spelling.partition(":")[0] for spelling in SPELLINGS} == set(OWN) == set(MADE)
    assert "masks:IMAGES,MASKS" in SPELLINGS


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_printed_spelling_is_opened(cli: Cli, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    source, _, location = spelling.partition(":")
    if "@" in location or location == "facebook/dinov2-base":
        pytest.skip("a dataset, or a model, of the hub")
    make, task = MADE[source]
    make(location)
    seen: list[str] = []

    def opened_only(lines: Any, opened: Callable[[str], Any], _: Any) -> tuple[list[Any], list[Any]]:
        for line, _ in lines:
            dataset = opened(line.dataset)
            assert dataset.split(dataset.card.test_split)[0].image.size == (8, 8)
            seen.append(line.dataset)
        return [], []

    monkeypatch.setattr("ssleval.run.sweep.make_jobs", opened_only)
    code, _, err = cli("run", "--model", "pixels", "--task", task, "--dataset", spelling, "--dry-run")
    assert (code, "ssleval: " in err, seen) == (0, False, [spelling]), err


# Lines that can be run


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results under the names that the pages use, all of the mean colours of some digits."""
    root = tmp_path_factory.mktemp("measured")
    backbone = load("pixels")
    for name in ("dinov2_vits14", "dino_vits16", "pixels", "dino_scenes"):
        backbone.card = replace(backbone.card, name=name)
        settings = {"knn": {"ks": (5,)}}
        evaluate(backbone, "knn", dataset="digits", limit=60, settings=settings, results=root / "results")
    for side in ("main", "pr"):
        shutil.copytree(root / "results", root / side / "results")
    return root


network = cache(partial(load, "random:vit_tiny"))


def untrained(name: str, **_: Any) -> Any:
    """Return a small untrained network under the name of a published one."""
    backbone = network()
    backbone.card = replace(backbone.card, name=name)
    return backbone


def seconds(*_: Any) -> float:
    """Return what an image takes."""
    return 0.01


def nothing(*_: Any) -> Cost:
    """Return what evaluating a task takes."""
    return Cost()


def reason_not_to_run(line: str) -> str:
    command = line.removeprefix("ssleval ")
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, command)), "")


@pytest.mark.parametrize("line", [line for line in LINES if not reason_not_to_run(line)])
def test_a_printed_line_runs(cli: Cli, monkeypatch: pytest.MonkeyPatch, measured: Path, line: str) -> None:
    shutil.copytree(measured, cli.folder, dirs_exist_ok=True)
    words = shlex.split(line)[1:]
    if words[0] == "run":
        monkeypatch.setattr("ssleval.run.sweep.load", untrained)
        # Timing a few batches is not what is looked at.
        monkeypatch.setattr("ssleval.features.source.seconds_per_image", seconds)
        monkeypatch.setattr("ssleval.run.estimate.rehearse", nothing)
        source, _, location = words[words.index("--dataset") + 1].partition(":")
        if source in MADE:
            MADE[source][0](location)
        words.append("--dry-run")
    if words[:2] == ["cache", "clear"] and "--yes" not in words:
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    words = [str(cli.folder / "scratch") if word.startswith("/scratch") else word for word in words]
    code, out, err = cli(*words)
    # Nothing compares with a published figure here.
    assert code == (3 if words[0] == "verify" else 0), err
    assert out or words[0] == "cache"


def test_reasons_are_of_lines() -> None:
    for pattern in NOT_RUN:
        assert any(re.match(pattern, line.removeprefix("ssleval ")) for line in LINES), pattern
