import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ssleval.checks.gate.reports import junit, markdown, remove_reports, to_json, write_error, write_reports
from ssleval.checks.gate.verdicts import Verdict

PASS = Verdict(
    task="knn",
    dataset="digits",
    metric="top1",
    unit="fraction",
    baseline=0.7,
    candidate=0.71234,
    gain=0.01234,
    ci90=(-0.004, 0.0287),
    margin=0.02,
    n=500,
    seeds=1,
    pvalue=1.0,
    outcome="pass",
    reason="it is | as good",
)
OPEN = replace(PASS, dataset="scenes", outcome="inconclusive", reason="few images")
FAIL = replace(
    PASS, task="depth", metric="rmse", unit="metre", margin=0.03, outcome="fail", reason="worse", seeds=3
)


def test_the_table_has_what_needs_attention_first_with_two_decimals_of_percent() -> None:
    assert markdown([PASS, OPEN, FAIL]).splitlines() == [
        "### Gate: ❌ fail",
        "",
        "| verdict | task | metric | baseline | candidate | better by [90 %] | margin | n | seeds | why |",
        "|:---|:---|:---|---:|---:|---:|---:|---:|---:|:---|",
        "| ❌ fail | depth/digits | rmse | 0.7000 | 0.7123 | 0.0123 [-0.0040, 0.0287] | 0.0300 | 500 | 3 "
        "| worse |",
        "| ❔ inconclusive | knn/scenes | top1 | 70.00 | 71.23 | 1.23 [-0.40, 2.87] | 2.00 | 500 | 1 "
        "| few images |",
        r"| ✅ pass | knn/digits | top1 | 70.00 | 71.23 | 1.23 [-0.40, 2.87] | 2.00 | 500 | 1 "
        r"| it is \| as good |",
    ]


def test_a_junit_report_counts_its_cases_and_gives_reasons() -> None:
    root = ElementTree.fromstring(junit([PASS, OPEN, FAIL, FAIL, FAIL], 'a "suite" <of> five'))
    (suite,) = root
    assert suite.get("name") == 'a "suite" <of> five'
    for element in (root, suite):
        counts = [element.get(name) for name in ("tests", "failures", "errors", "skipped")]
        assert counts == ["5", "3", "0", "1"]
    assert [[child.tag for child in case] for case in suite] == [
        ["system-out"],
        ["skipped"],
        *[["failure"]] * 3,
    ]
    assert [case.get("name") for case in suite] == ["digits top1", "scenes top1", *["digits rmse"] * 3]
    assert suite[1][0].get("message") == "better by 1.23 [-0.40, 2.87], margin 2.00: few images"
    assert suite[2][0].text == "better by 0.0123 [-0.0040, 0.0287], margin 0.0300: worse"


def test_reports_are_written_where_asked_and_named(tmp_path: Path) -> None:
    written = write_reports([PASS, FAIL], "ci", tmp_path / "out")
    assert written == [tmp_path / "out" / f"gate.{ending}" for ending in ("md", "json", "xml")]
    texts = [path.read_text("utf-8") for path in written]
    assert texts[0] == markdown([PASS, FAIL])
    assert json.loads(texts[1]) == {
        "outcome": "fail",
        "first_run": False,
        "tasks": [json.loads(json.dumps(one.to_dict())) for one in (PASS, FAIL)],
    }
    assert texts[2].count("<?xml") == 1
    assert texts[2].startswith('<?xml version="1.0" encoding="utf-8"?>\n<testsuites')
    assert all(text.endswith("\n") for text in texts)


def test_a_number_that_json_does_not_have_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json([replace(PASS, gain=float("nan"))])


def test_a_gate_that_could_not_judge_is_one_case_with_an_error(tmp_path: Path) -> None:
    written = write_error("no memory", "ci", tmp_path, 1.5)
    said, content, xml = (path.read_text("utf-8") for path in written)
    assert said.endswith("no memory\n")
    assert content == json.dumps({"outcome": "error", "reason": "no memory", "tasks": []}, indent=1) + "\n"
    root = ElementTree.fromstring(xml)
    for element in (root, root[0]):
        counts = [element.get(name) for name in ("tests", "failures", "errors", "skipped", "time")]
        assert counts == ["1", "0", "1", "0", "1.500"]
    assert [child.tag for child in root[0][0]] == ["error"]
    for _ in range(2):
        remove_reports(tmp_path)
        assert not any(path.exists() for path in written)
