import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from ssleval.cli import main
from ssleval.cli.tables import LEADING
from ssleval.core import DatasetCard
from ssleval.core.task import tasks
from ssleval.tasks.retrieval import Retrieval

FAST = ["--dataset", "digits", "--limit", "60", "--set", "knn.ks=5,1"]


def ssleval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["ssleval", *(str(argument) for argument in arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


class Cli:
    """The command line in this process, with a cache and a results folder of its own."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        monkeypatch.setenv("SSLEVAL_CACHE", str(folder / "cache"))
        monkeypatch.chdir(folder)

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        return ssleval(self._monkeypatch, self._capsys, *arguments)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


def test_run_then_leaderboard(cli: Cli) -> None:
    code, out, _ = cli("run", "--model", "pixels,random:dino_scenes", *FAST)
    assert code == 0
    assert "pixels  knn/digits  n=60" in out
    code, table, _ = cli("leaderboard", "results", "--out", "board")
    assert code == 0
    assert "| random:dino_scenes (limit 60) |" in table
    assert {path.name for path in (cli.folder / "board").iterdir()} == {
        "leaderboard.csv",
        "leaderboard_long.csv",
        "leaderboard.md",
    }


def test_json_is_one_object_a_line_with_the_documented_fields(cli: Cli) -> None:
    code, out, _ = cli("run", "--model", "pixels", *FAST, "--json")
    assert code == 0
    (line,) = out.splitlines()
    found = json.loads(line)
    assert list(found)[:8] == ["schema", "model", "task", "dataset", "key", "path", "cached", "metrics"]
    assert next(iter(found["metrics"])) == "top1@5"
    assert set(found["metrics"]["top1@5"]) >= {"value", "ci95", "n"}
    assert found["cached"] is False
    assert Path(found["path"]).exists()


def test_the_second_run_measures_nothing_and_says_so(cli: Cli) -> None:
    cli("run", "--model", "pixels", *FAST)
    code, out, _ = cli("run", "--model", "pixels", *FAST)
    assert code == 0
    assert "stored before" in out
    first = json.loads(cli("run", "--model", "pixels", *FAST, "--json")[1])
    again = json.loads(cli("run", "--model", "pixels", *FAST, "--json", "--force")[1])
    assert (first["cached"], again["cached"]) == (True, False)
    assert first["metrics"] == again["metrics"]
    assert first["key"] == again["key"]


@pytest.mark.parametrize(
    "changed",
    [
        ["--set", "knn.temperature=0.2"],
        ["--set", "knn.resize=240"],
        ["--limit", "50"],
        ["--precision", "bf16"],
        ["--seed", "1"],
        ["--skip-corrupt"],
    ],
    ids=" ".join,
)
def test_what_may_move_a_score_changes_the_key(cli: Cli, changed: list[str]) -> None:
    plain = json.loads(cli("run", "--model", "pixels", *FAST, "--json")[1])
    other = json.loads(cli("run", "--model", "pixels", *FAST, *changed, "--json")[1])
    assert plain["key"] != other["key"]


@pytest.mark.parametrize(
    "harmless", [["--batch-size", "7"], ["--num-workers", "1"], ["--quiet"]], ids=" ".join
)
def test_what_may_not_move_a_score_does_not_change_the_key(cli: Cli, harmless: list[str]) -> None:
    plain = json.loads(cli("run", "--model", "pixels", *FAST, "--json")[1])
    other = json.loads(cli("run", "--model", "pixels", *FAST, *harmless, "--force", "--json")[1])
    assert plain["key"] == other["key"]
    assert plain["metrics"] == other["metrics"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "dinov2_vitb41"], ["dinov2_vitb41", "did you mean", "dinov2_vitb14"]),
        (["--model", "pixels", "--task", "knm"], ["'knm'", "did you mean knn"]),
        (["--model", "pixels", "--dataset", "digit"], ["'digit'", "did you mean digits"]),
        (["--model", "pixels", "--dataset", "folder:/none"], ["/none"]),
        (["--model", "pixels", "--set", "knn.temprature=1"], ["'temprature'", "did you mean temperature"]),
        (["--model", "pixels", "--set", "linear.x=1"], ["linear"]),
        (["--model", "pixels", "--split", "tset"], ["'tset'", "did you mean test"]),
        (["--model", "pixels", "--batch-size", "many"], ["many", "auto"]),
        (["--model", "pixels", "--suite", "smok"], ["'smok'", "did you mean smoke"]),
        (["--model", "vit_tiny"], ["random:vit_tiny", "--checkpoint"]),
        (["--model", "vit_tiny", "--checkpoint", "none.pth"], ["none.pth"]),
        (["--model", "pixels,random:vit_tiny", "--checkpoint", "none.pth"], ["--checkpoint", "one model"]),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else value,
)
def test_a_mistake_is_one_line_that_says_what_to_do(cli: Cli, arguments: list[str], words: list[str]) -> None:
    code, out, err = cli("run", *arguments)
    assert code == 2
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("ssleval: ")
    for word in words:
        assert word in line


def test_one_broken_model_does_not_stop_the_others(cli: Cli) -> None:
    code, out, err = cli("run", "--model", "vit_tiny,pixels", *FAST)
    assert code == 2
    assert "pixels  knn/digits" in out
    assert "vit_tiny" in err


def test_both_spellings_of_an_option_are_understood(cli: Cli) -> None:
    code, out, _ = cli("run", "--model", "pixels", *FAST, "--batch_size", "16", "--json")
    assert code == 0
    assert json.loads(out)["metrics"]


def test_traceback_shows_where_an_error_arose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["ssleval", "run", "--model", "nothing", "--traceback"])
    from ssleval.errors import UnknownNameError

    with pytest.raises(UnknownNameError):
        main()


def test_a_fault_of_ours_is_not_the_1_of_a_gate_that_failed(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssleval.results.read_all", None)
    code, _, err = cli("leaderboard", "results")
    assert (code, "Traceback" in err) == (70, True)


def test_a_folder_that_cannot_be_written_is_one_line(cli: Cli) -> None:
    (cli.folder / "file").write_text("")
    (cli.folder / "results").mkdir()
    code, _, err = cli("leaderboard", "results", "--out", "file/board")
    assert (code, err.count("\n"), "file/board" in err) == (2, 1, True)


def test_one_line_that_cannot_be_measured_does_not_stop_those_on_the_same_pictures(cli: Cli) -> None:
    (cli.folder / "suite.yaml").write_text(
        "measurements:\n"
        "  - {task: linear, dataset: digits, settings: {resize: 30, crop: 30, inputs: pooled}}\n"
        "  - {task: knn, dataset: digits, settings: {ks: [5], resize: 32, crop: 32}}\n"
        "  - {task: knn, dataset: digits, settings: {ks: [5000]}}\n"
    )
    code, out, err = cli("run", "--model", "random:vit_tiny", "--suite", "suite.yaml", "--limit", "60")
    assert (code, out.count("knn/digits"), "linear" in out) == (2, 1, False), err
    assert "30 pixels is not a multiple" in err
    assert "knn: ks=(5000,) among 60 training images" in err


def test_data_without_a_training_split_are_not_for_tasks_that_fit(cli: Cli) -> None:
    for task in ("knn", "linear", "logreg", "fewshot", "corruptions"):
        code, _, err = cli("run", "--model", "pixels", "--task", task, "--dataset", "scenes:video")
        assert (code, "Traceback" in err) == (2, False), err


def test_dry_run_prices_the_run_and_measures_nothing(cli: Cli) -> None:
    code, out, _ = cli("run", "--model", "pixels", *FAST, "--dry-run", "--json")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert sum(line["images"] for line in lines) == 120
    assert all(line["seconds"] > 0 and line["disk_bytes"] > 0 for line in lines)
    assert not (cli.folder / "results").exists()
    cli("run", "--model", "pixels", *FAST)
    again = cli("run", "--model", "pixels", *FAST, "--dry-run", "--json", "--force")[1]
    assert sum(json.loads(line)["images"] for line in again.splitlines()) == 120


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_task_asked_for_by_name_that_cannot_run_is_never_exit_0(cli: Cli, dry: list[str]) -> None:
    code, out, err = cli("run", "--model", "pixels", "--task", "zeroshot,knn", *FAST, *dry)
    assert (code, "pixels" in out) == (2, True)
    (line,) = [line for line in err.splitlines() if line.startswith("ssleval: ")]
    assert line == "ssleval: zeroshot on digits: pixels has no text tower"
    code, out, err = cli("run", "--model", "pixels", "--task", "knn,attention", *FAST, *dry)
    assert (code, "pixels" in out, "attention on digits: attention needs" in err) == (2, True, True)


@pytest.mark.parametrize(("model", "inputs"), [("pixels", "pooled"), ("dino_scenes", "blocks2")])
def test_linear_runs_on_the_embedded_models_and_records_its_inputs(cli: Cli, model: str, inputs: str) -> None:
    settings = ["--set", "linear.iterations=4", "--set", "linear.batch_size=16"]
    command = ["run", "--model", model, "--task", "linear", "--dataset", "digits", "--limit", "60", *settings]
    code, out, err = cli(*command, "--json")
    assert (code, json.loads(out)["protocol"]["inputs"]) == (0, inputs)
    assert f"linear on digits: inputs={inputs}, which is what {model} has" in err
    asked = cli(*command, "--set", f"linear.inputs={inputs}", "--json")
    assert json.loads(asked[1])["key"] == json.loads(out)["key"]
    assert "which is what" not in asked[2]


@pytest.mark.parametrize("what", ["models", "tasks", "datasets", "suites"])
def test_listing(cli: Cli, what: str) -> None:
    code, out, _ = cli("ls", what, "--json")
    assert code == 0
    assert all(json.loads(line) for line in out.splitlines())
    code, shown, _ = cli("ls", what)
    assert code == 0
    assert shown.strip()


def listed(cli: Cli, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cli("ls", *arguments, "--json")[1].splitlines()]


def test_models_are_listed_by_glob_family_and_supervision(cli: Cli) -> None:
    assert {row["family"] for row in listed(cli, "models", "--family", "dinov2")} == {"DINOv2"}
    assert {row["model"] for row in listed(cli, "models", "dino_vitb*")} == {"dino_vitb16", "dino_vitb8"}
    assert {row["supervision"] for row in listed(cli, "models", "--supervision", "full")} == {"full"}
    (row,) = listed(cli, "models", "dinov2_vits14", "--family", "DINO*")
    assert (row["embed_dim"], row["pooled_dim"], row["tokens"]) == (384, 384, 37 * 37)
    (clip,) = listed(cli, "models", "openclip_vitb32_laion2b")
    assert (clip["embed_dim"], clip["pooled_dim"]) == (768, 512)
    assert [row["task"] for row in listed(cli, "tasks", "seg*k*")] == ["segmentation_knn"]
    for arguments, words in (
        (("models", "dinov2_vits15"), "did you mean"),
        (("models", "--family", "DINOv4"), "did you mean DINOv"),
        (("tasks", "--family", "DINO"), "only models have a family"),
    ):
        code, out, err = cli("ls", *arguments)
        assert (code, out, words in err) == (2, "", True), err


def test_an_unknown_number_of_parameters_is_no_zero(cli: Cli) -> None:
    (row,) = listed(cli, "models", "pixels")
    assert row["params_M"] is None
    assert " 0.0 " not in cli("ls", "models")[1]


def test_datasets_are_listed_with_the_metric_of_the_task_they_are_made_for(cli: Cli) -> None:
    metrics = {row["dataset"]: row["metric"] for row in listed(cli, "datasets")}
    expected = {
        "digits": "top1",
        "pets": "mean_per_class",
        "voc2007": "map",
        "roxford5k": "map",
        "met": "gap",
        "ade20k": "mean_iou",
        "nyuv2": "rmse",
        "spair71k": "pck",
        "folder": "",
    }
    assert {name: metrics[name] for name in expected} == expected


def test_leading_metrics_are_those_of_the_tasks() -> None:
    made_for = {
        "open_set": tasks.get("instance_recognition")(),
        "mask": tasks.get("segmentation")(),
        "instances": tasks.get("attention")(),
        "video": tasks.get("video_segmentation")(),
        "depth": tasks.get("depth")(),
        "normals": tasks.get("normals")(),
        "pairs": tasks.get("correspondence")(),
        "groups": Retrieval(levels=()),
        "captions": tasks.get("caption_retrieval")(),
        "boxes": tasks.get("discovery")(),
        "clips": tasks.get("video_classification")(),
    }
    for target, task in made_for.items():
        assert task.metrics[0].name.partition("@")[0] == LEADING[target]
    assert f"{LEADING['views']}@" in " ".join(one.name for one in made_for["pairs"].metrics)
    targets = set(get_args(get_type_hints(DatasetCard)["target"]))
    assert targets - {"label", "multilabel"} == set(LEADING)


def test_what_was_not_measured_is_said_even_quietly(cli: Cli) -> None:
    (cli.folder / "suite.yaml").write_text(
        "measurements:\n"
        "  - {task: zeroshot, dataset: digits}\n"
        "  - {task: knn, dataset: digits, settings: {ks: [5]}}\n"
    )
    code, out, err = cli("run", "--model", "pixels", "--suite", "suite.yaml", "--limit", "60", "--quiet")
    assert (code, "knn/digits" in out) == (0, True)
    (line,) = err.splitlines()
    assert line.startswith("not applicable: zeroshot on digits")
    assert "forward passes" in cli("run", "--model", "pixels", *FAST, "--force", "--limit", "50")[2]


@pytest.mark.parametrize(
    "arguments", [["run", "--modle", "x"], ["ruin"], ["ls", "modles"], ["run"], ["verify", "--no-all"]]
)
def test_usage_errors_exit_with_2(cli: Cli, arguments: list[str]) -> None:
    assert cli(*arguments)[0] == 2


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["cache", "clear", "--help"]])
def test_flags_have_neither_type_nor_opposite_in_the_help(cli: Cli, command: list[str]) -> None:
    code, out, _ = cli(*command)
    assert (code, "--help" in out, "bool" in out.lower(), "--no-" in out) == (0, True, False, False)


def test_commands_are_grouped_and_completed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    out = cli("--help")[1]
    places = [
        out.index(f"─ {panel} ─") for panel in ("Measure", "Compare", "Look", "Train", "Data and cache")
    ]
    assert places == sorted(places)
    assert "--install-completion" in out
    monkeypatch.setenv("_SSLEVAL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "ssleval leade")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert cli()[1].split() == ["leaderboard"]


def test_cache_commands(cli: Cli) -> None:
    cli("run", "--model", "pixels", *FAST)
    code, out, _ = cli("cache", "info")
    assert code == 0
    assert "pixels" in out
    code, out, _ = cli("cache", "verify")
    assert code == 0
    code, _, _ = cli("cache", "prune", "--max-size", "0")
    assert code == 0
    assert "pixels" not in cli("cache", "info")[1]
    code, _, err = cli("cache", "prune", "--max-size", "lots")
    assert code == 2
    assert "lots" in err
    assert cli("cache", "clear", "--yes")[0] == 0


def test_a_damaged_pass_is_named_by_info_removed_by_verify_and_replaced_by_force(cli: Cli) -> None:
    cli("run", "--model", "pixels", *FAST)
    damaged, other = sorted((cli.folder / "cache").glob("features/*/pass.json"))
    damaged.write_text("{}")
    code, out, err = cli("cache", "info")
    assert (code, out.count("pixels"), err.count("\n")) == (2, 1, 1)
    assert f"{damaged}: damaged" in err
    code, _, err = cli("run", "--model", "pixels", *FAST)
    assert (code, err.count("pass.json: damaged")) == (2, 1)
    code, out, _ = cli("cache", "verify")
    removed = f"{damaged.parent.name[:12]} pass.json: damaged; pass removed\n"
    assert (code, out) == (0, f"{removed}1 damaged batches\n")
    assert cli("run", "--model", "pixels", *FAST)[0] == 0
    other.write_text("{}")
    assert cli("run", "--model", "pixels", *FAST, "--force")[0] == 0
    assert cli("cache", "info")[0] == 0


@pytest.mark.parametrize(
    "command", [["--help"], ["--version"], ["ls", "models"], ["ls", "tasks"], ["ls", "datasets"]]
)
def test_light_commands_import_no_torch(command: list[str]) -> None:
    code = (
        "import sys; sys.argv[1:] = sys.argv[1].split()\n"
        "from ssleval.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'timm', 'transformers', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, " ".join(command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    reason="started where Ctrl-C is ignored, as in a script's `&`",
)
def test_an_interrupted_run_says_so_in_one_line_and_goes_on(cli: Cli) -> None:
    command = [sys.executable, "-m", "ssleval", "run", "--model", "random:vit_tiny", "--batch-size", "4"]
    command += ["--dataset", "digits", "--limit", "400", "--set", "knn.ks=5"]
    running = subprocess.Popen(command, cwd=cli.folder, env=os.environ, stderr=subprocess.PIPE, text=True)
    while not list((cli.folder / "cache").rglob("*.npy")):
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.05)
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "interrupted; finished work is kept" in err
    assert "Traceback" not in err
    assert not list((cli.folder / "results").rglob("*.json"))


def test_show_classes_prints_a_stored_result_class_by_class(cli: Cli) -> None:
    cli("run", "--model", "pixels", *FAST)
    code, out, _ = cli("show", "classes", "pixels", "--names", "--confusion", "confusion.csv")
    assert code == 0
    assert out.startswith("Balanced accuracy (mean recall per class): ")
    assert len(out.splitlines()) == 2 + 2 + 10
    rows = [line.split(",") for line in (cli.folder / "confusion.csv").read_text().splitlines()]
    assert rows[0] == ["true class", *"0123456789"]
    assert sum(int(count) for row in rows[1:] for count in row[1:]) == 60
    code, lines, _ = cli("show", "classes", "pixels", "--json")
    assert [json.loads(line)["label"] for line in lines.splitlines()] == list(range(10))
    code, _, error = cli("show", "classes", "pixels", "--task", "linear")
    assert (code, error) == (2, "ssleval: pixels has knn on digits; choose one by --task and --dataset\n")
