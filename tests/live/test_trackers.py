"""Each adapter with the real package, without a network; skipped where the package is not installed."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssleval.cli import main
from ssleval.errors import ConfigError
from ssleval.live import trackers
from tests.live.live_fakes import Net, knn

TOOLS = ("tensorboard", "wandb", "mlflow", "trackio")
# Deprecations within these packages are theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def tensorboard_points(folder: Path) -> dict[tuple[str, int], float]:
    library: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")

    points: dict[tuple[str, int], float] = {}
    for file in folder.rglob("events.*"):
        events = library.EventAccumulator(str(file.parent)).Reload()
        for tag in events.Tags()["scalars"]:
            points |= {(tag, event.step): event.value for event in events.Scalars(tag)}
    return points


def records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format, after the seven bytes that W&B puts before it."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if (left := 32_768 - place % 32_768) < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            yield whole
            whole = b""


def wandb_points(folder: Path) -> dict[tuple[str, int], float]:
    wandb: Any = importlib.import_module("wandb")
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")

    # Ends the process that writes.
    wandb.teardown()
    points: dict[tuple[str, int], float] = {}
    for file in folder.rglob("*.wandb"):
        for data in records(file.read_bytes()):
            record = messages.Record()
            record.ParseFromString(data)
            row = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            if "ssleval/step" in row:
                step = row["ssleval/step"]
                points |= {(name, step): value for name, value in row.items() if name.count("/") > 1}
    return {(name.removeprefix("ssleval/"), step): value for (name, step), value in points.items()}


def mlflow_points(folder: Path) -> dict[tuple[str, int], float]:
    points: dict[tuple[str, int], float] = {}
    for file in folder.rglob("metrics/**/*"):
        if file.is_file():
            name = str(file).rpartition("/metrics/")[2]
            for line in file.read_text().splitlines():
                _, value, step = line.split()[:3]
                points[name.replace("-1", "@1").replace("-5", "@5"), int(step)] = float(value)
    return points


def trackio_points(folder: Path) -> dict[tuple[str, int], float]:
    import sqlite3

    points: dict[tuple[str, int], float] = {}
    for file in folder.rglob("*.db"):
        with sqlite3.connect(file) as connection:
            for step, text in connection.execute("SELECT step, metrics FROM metrics"):
                metrics = json.loads(text)
                points |= {(name, step): value for name, value in metrics.items() if name.count("/") > 1}
    return points


POINTS: dict[str, Callable[[Path], dict[tuple[str, int], float]]] = {
    "tensorboard": tensorboard_points,
    "wandb": wandb_points,
    "mlflow": mlflow_points,
    "trackio": trackio_points,
}


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name: str = request.param
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(name, reason=f"{name} is not installed")
    if name == "trackio":
        importlib.import_module("trackio.sqlite_storage")
        for module in [one for key, one in sys.modules.items() if key.startswith("trackio")]:
            if hasattr(module, "TRACKIO_DIR"):
                monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    yield name
    if name == "wandb":
        # Its settings are those of the first run otherwise.
        sys.modules["wandb"].teardown()


def expected(values: dict[str, float], *steps: int) -> dict[tuple[str, int], float]:
    return {(name, step): value for name, value in values.items() for step in steps}


def near(points: dict[tuple[str, int], float], truth: dict[tuple[str, int], float]) -> bool:
    # TensorBoard keeps numbers of 32 bits.
    return points == pytest.approx(truth, rel=1e-6)


def test_live_scores_reach_a_tool_by_its_name(tool: str, tmp_path: Path) -> None:
    evaluator = knn(tmp_path / "live.jsonl", log=tool)
    values = evaluator(0, Net())
    assert values is not None
    evaluator(50, Net())
    for log in evaluator._logs:
        log.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert near(POINTS[tool](tmp_path), expected(values, 0, 50))


def begin(tool: str) -> tuple[Callable[[dict[str, float], int], Any], Callable[[], Any]]:
    module: Any = importlib.import_module(tool)
    if tool == "wandb":
        run: Any = module.init(project="theirs")
        return (lambda row, step: run.log(row, step=step)), run.finish
    if tool == "mlflow":
        module.start_run()
        return (lambda row, step: module.log_metrics(row, step=step)), module.end_run
    module.init(project="theirs", embed=False)
    return (lambda row, step: module.log(row, step=step)), module.finish


def test_scores_join_the_run_that_the_program_has_begun(tool: str, tmp_path: Path) -> None:
    if tool == "tensorboard":
        pytest.skip("TensorBoard has no run of the program")
    evaluator = knn()
    log, finish = begin(tool)
    seen: dict[str, float] = {}
    for step in (0, 1, 2):
        log({"loss": 1.0 + step}, step)
        values = evaluator(step, Net()) if step < 2 else None
        seen |= values or {}
    finish()
    points = {key: value for key, value in POINTS[tool](tmp_path).items() if key[0] != "loss"}
    assert near(points, expected(seen, 0, 1))


def test_finished_results_reach_a_tool(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--model", "pixels", "--dataset", "digits", "--limit", "60", "--set", "knn.ks=5,1"]
    monkeypatch.setattr("sys.argv", ["ssleval", *words, "--device", "cpu", "--json", "--log", tool])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert not end.value.code, err
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    values = {
        f"{row['task']}/{row['dataset']}/{name}": score["value"]
        for row in rows
        for name, score in row["metrics"].items()
    }
    assert len(rows) == 1
    assert near(POINTS[tool](tmp_path), expected(values, 0))


def test_any_object_with_a_method_is_a_log() -> None:
    class Mine:
        def __init__(self) -> None:
            self.rows: list[tuple[int, dict[str, float]]] = []

        def log(self, values: dict[str, float], step: int) -> None:
            self.rows.append((step, values))

    one, two = Mine(), Mine()
    values = knn(log=[one, two])(7, Net())
    assert one.rows == two.rows == [(7, values)]
    knn(log=one)(8, Net())
    assert len(one.rows) == 2
    with pytest.raises(ConfigError, match="a int has no method"):
        trackers.trackers([3], Path())


def test_a_tool_that_is_not_installed_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    def absent(_: str) -> None:
        return None

    monkeypatch.setattr(trackers, "find_spec", absent)
    with pytest.raises(ConfigError, match="pip install wandb"):
        knn(log="wandb")
    monkeypatch.setattr("sys.argv", ["ssleval", "run", "--model", "pixels", "--log", "wandb"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "pip install wandb" in capsys.readouterr().err


def test_nothing_is_imported_for_those_who_track_nothing() -> None:
    before = {name for name in TOOLS if name in sys.modules}
    knn()(0, Net())
    assert {name for name in TOOLS if name in sys.modules} == before
