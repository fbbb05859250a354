"""One hostile name through every writer: what is printed parses back, and nothing in it acts."""

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from junitparser import JUnitXml
from scipy.sparse import csr_array
from typer.testing import CliRunner

import ssleval
from ssleval.checks.doctor.finding import Finding
from ssleval.checks.gate import reports
from ssleval.checks.gate.verdicts import Verdict
from ssleval.cli import options, run, tables, verify
from ssleval.cli.app import app
from ssleval.core import Samples, digest
from ssleval.core.escape import visible
from ssleval.core.text import without_folders
from ssleval.display import classes
from ssleval.display.publishing.hub import hub_files
from ssleval.display.publishing.public import public_boards
from ssleval.display.report import write_report
from ssleval.display.training_curves import draw_curves
from ssleval.features import progress
from ssleval.results import Result, Score, compare, leaderboard, matrix, read_all, record
from ssleval.results.overall import overall
from ssleval.results.ranking import boards
from tests.core.test_escape import acts, cells
from tests.display.report.test_page import Page

EVIL = (
    "=cmd|'/c x'!A|`b`[c](javascript:1)<script>alert(1)</script>&amp;\x1b[2J\x9b31m\u202e\n::error::x]]>"
    "[bold][/]\t\x00$d$\ud800 \udcff\ufffe*_##[error]\\"
)
"""Every format has something here that acts in it."""


MEAN = {"name": "mean_of", "columns": {"column": "right"}}


def stored(folder: Path, number: int) -> Result:
    right = np.random.default_rng(number).random(40) < 0.4 + 0.3 * number
    made = Result(
        model=f"{EVIL}{number}",
        task=EVIL,
        dataset=EVIL,
        key=digest(number),
        metrics={
            EVIL: Score(float(right.mean()), (0.0, 1.0), 40, statistic=MEAN, note=EVIL)
        },
        protocol={EVIL: EVIL},
        backbone={"name": EVIL, "supervision": ("self", "weak")[number], "family": EVIL},
        data={"name": EVIL, "test_split": EVIL, "fingerprints": {EVIL: EVIL}},
        weights_sha256=EVIL,
        settings={"precision": EVIL, "seed": 0, "limit": None, "skip_corrupt": False},
        created=f"2026-01-0{number + 1}",
    )  # fmt: skip
    return record.write(folder, made, Samples([f"{row}" for row in range(40)], {"right": right}))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for number in range(2):
        stored(folder, number)
    return folder


def assert_harmless(text: str) -> None:
    assert not acts(text.replace("\n", ""))
    assert not any(line.lstrip().startswith("::") or "##[" in line for line in text.split("\n"))


def verdict() -> Verdict:
    return Verdict(EVIL, EVIL, EVIL, "fraction", 0.5, 0.4, -0.1, (-0.2, 0.0), 0.01, 9, 1, 0.01, "fail", EVIL)


def ruled(text: str) -> Iterator[list[str]]:
    """Yield the cells of every row of the Markdown tables in a text, whose rows all have one length."""
    rows = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    yield from rows[2:]


def test_markdown_tables_have_the_columns_and_names_they_should(results: Path) -> None:
    first, second = read_all(results)
    board = leaderboard.markdown(boards([first, second]))
    precision = f" (precision {EVIL})"
    assert {row[1] for row in ruled(board)} == {visible(f"{EVIL}{n}{precision}") for n in range(2)}
    table = compare.markdown(compare.compare([first], [second]), first.model, second.model)
    assert [row[:2] for row in ruled(table)] == [[visible(f"{EVIL}/{EVIL}"), visible(EVIL)]]
    gate = reports.markdown([verdict()])
    # For a pull request: what looks like an absolute path loses its folders.
    public = without_folders(f"{EVIL}/{EVIL}")
    assert [row[1:3] for row in ruled(gate)] == [[visible(public), visible(EVIL)]]
    several = matrix.markdown(overall(boards([first, second])))
    assert {row[0] for row in ruled(several.split("\n\n")[0])} >= {
        visible(f"{EVIL}{n}{precision}") for n in range(2)
    }
    cards = hub_files(public_boards([first, second]), {}, note=print)
    assert len(cards) == 2
    for title, files in cards.items():
        (row,) = ruled(files["README.md"])
        assert row[2].startswith(visible(EVIL))
        (found,) = ModelCard(files["README.md"]).data.to_dict()["model-index"]
        assert found["name"] == visible(title)
    shown = [ModelCard(files["README.md"]).text for files in cards.values()]
    for text in (board, table, gate, several, *shown):
        assert_harmless(text)
        assert "<script" not in text
        assert "](" not in text.replace("\\](", "")


def test_the_matrix_shows_names_as_they_are_in_every_format(results: Path) -> None:
    found = overall(boards(read_all(results)))
    names = {visible(f"{EVIL}{n} (precision {EVIL})") for n in range(2)}
    text = matrix.markdown(found)
    assert {row[0] for row in ruled(text.partition("\n\n")[0])} == names
    assert_harmless(text)
    # For other programs, as JSON: only what acts on a terminal is written out.
    assert not acts(matrix.csv(found).replace("\n", ""))
    assert not acts(matrix.latex(found).replace("\n", ""))
    assert {row["model"] for row in csv.DictReader(io.StringIO(matrix.csv(found)))} == {
        f"'{name}" for name in names
    }


def test_scores_class_by_class_show_names_as_they_are() -> None:
    rows = (classes.ClassScore(0, EVIL, 2, 0.5, 0.5, 0.5, EVIL, 1), classes.ClassScore(1, EVIL, 1, 1.0))
    found = classes.ByClass(EVIL, "fraction", rows, None, csr_array(np.array([[1, 1], [0, 1]])))
    text = classes.markdown(found)
    assert {row[0] for row in ruled(text)} == {visible(EVIL)}
    assert_harmless(text)
    matrix_of_classes = classes.confusion_csv(found)
    assert not acts(matrix_of_classes.replace("\n", ""))
    table = list(csv.reader(io.StringIO(matrix_of_classes)))
    assert not any(cell[:1] in "=+@\t\r" for row in table for cell in row if cell)
    assert [row[1:] for row in table[1:]] == [["1", "1"], ["0", "1"]]


def test_csv_files_hold_no_formula_and_parse_back(results: Path, tmp_path: Path) -> None:
    leaderboard.write_tables(boards(read_all(results)), tmp_path)
    for path in tmp_path.glob("*.csv"):
        text = path.read_text(encoding="utf-8")
        rows = list(csv.reader(io.StringIO(text)))
        assert len({len(row) for row in rows}) == 1
        assert not any(cell[:1] in "=+@\t\r" for row in rows for cell in row if cell)
        assert not acts(text.replace("\n", ""))
        assert set(pd.read_csv(path)["model"].str.startswith(f"'{visible(EVIL)}")) == {True}


def test_junit_is_xml_that_ci_reads() -> None:
    text = reports.junit([verdict()], EVIL)
    (case,) = list(next(iter(JUnitXml.fromstring(text.encode()))))
    assert (case.classname, case.name) == (f"ssleval.{visible(EVIL)}", visible(f"{EVIL} {EVIL}"))
    assert visible(EVIL) in case.result[0].message
    assert json.loads(reports.to_json([verdict()]))["tasks"][0]["reason"] == EVIL


def test_the_report_embeds_names_as_visible_text(results: Path, tmp_path: Path) -> None:
    from ssleval.display.report import Options

    write_report(results, tmp_path / "r.html", Options(EVIL))
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert len(page.all("script")) == 3
    data = json.loads(page.scripts[0])
    assert {row["model"] for row in data["rows"]} == {visible(f"{EVIL}{n}") for n in range(2)}
    assert not acts(page.scripts[0])


def test_training_curves_of_any_name_are_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "$\\bad$\u202e_run"
    folder.mkdir()
    lines = [{"step": 1, "loss": 1.0}, {"step": 1, "evaluation": {"$\\x$\n": {"value": 1, "ci95": [0, 1]}}}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(folder, tmp_path / "c.svg")
    assert "\u202e" not in (tmp_path / "c.svg").read_text()


PRINTERS: dict[str, Callable[[Result], Any]] = {
    "say": lambda _: options.say(EVIL),
    "tell": lambda _: options.tell(EVIL),
    "complain": lambda _: options.complain(ValueError(f"no model {EVIL}")),
    "run": run._tell,
    "doctor": lambda _: [options.tell(line) for line in Finding("fail", EVIL, EVIL, EVIL).lines()],
    "table": lambda _: tables.table([{"model": EVIL, "what": EVIL}]),
    "json": lambda result: options.print_rows([result.to_dict()]),
    "summary": lambda _: options.tell(verify._summary(EVIL, Counter(), 1, [EVIL])),
}


@pytest.mark.parametrize("printer", PRINTERS)
def test_nothing_that_is_printed_acts(
    printer: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PRINTERS[printer](read_all(results)[0])
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert text.strip()
    assert not acts(text.replace("\n", ""))
    if printer != "json":
        assert_harmless(text)


def test_a_line_of_progress_is_harmless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with progress.progress(EVIL, 3, 0, show=True) as advance:
        advance(3)
    assert_harmless(capsys.readouterr().err)


def test_a_progress_bar_shows_a_name_in_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.progress("[bold]a[/x]\x1b[5m", 3, 0, show=True) as advance:
        advance(3)
    assert "[bold]a[/x]\\x1b[5m" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["leaderboard", "verify", "report", "compare"])
def test_commands_print_only_harmless_text(command: str, results: Path, tmp_path: Path) -> None:
    first, second = sorted(str(path.parent) for path in results.glob("*/*.json"))
    arguments = {
        "leaderboard": [str(results), "--out", str(tmp_path)],
        "verify": ["--results", str(results)],
        "report": [
            "--results",
            str(results),
            "--out",
            str(tmp_path / "a\x1b[2J.html"),
            "--title",
            EVIL[:-30],
        ],
        "compare": [first, second],
    }[command]
    done = CliRunner().invoke(app, [command, *arguments])
    assert done.exit_code in {0, 3}, done.output
    assert_harmless(done.output)


def _calls(name: str) -> set[str]:
    """Return the modules that call ``name(...)`` or ``....name(...)``."""
    root = Path(ssleval.__file__).parent
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(rf"(?<!\w)(?<!def ){name}\(", path.read_text(encoding="utf-8"))
    }


def test_whoever_prints_or_writes_a_table_is_tested_here() -> None:
    tables_of_text = {f"results/{name}.py" for name in ("leaderboard", "compare", "matrix")}
    tables_of_text |= {"checks/gate/reports.py", "display/classes.py", "display/publishing/hub.py"}
    commands = {
        f"cli/{name}.py"
        for name in ("options", "app", "leaderboard", "compare", "gate", "show", "similarity")
    }
    assert _calls("echo") == commands
    assert _calls("writerows") == {"results/leaderboard.py"}
    assert _calls("SubElement") == {"checks/gate/reports.py"}
    assert _calls("add_row") == {"cli/tables.py"}
    assert _calls("markdown_cell") == tables_of_text
    notes = {"features/filling.py", "core/locks.py", "features/progress.py", "datasets/files/places.py"}
    assert _calls("print") == {"cli/tables.py", *notes}
