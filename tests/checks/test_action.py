"""The GitHub action: its scripts run as the runner would, with stand-ins for ssleval, pip and GitHub."""

import json
import os
import re
import runpy
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: dict[str, dict[str, Any]] = {step["name"]: step for step in ACTION["runs"]["steps"]}
SCRIPT = ROOT / ".ci" / "comment.py"
FAKE = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$RECORD"
mkdir -p gate
[ -z "$TABLE" ] || echo "$TABLE" > gate/gate.md
exit "$CODE"
"""


def test_no_input_is_part_of_a_script() -> None:
    for step in STEPS.values():
        assert "${{" not in step["run"]
    example = yaml.safe_load((ROOT / "examples" / "gate.yml").read_text(encoding="utf-8"))
    steps = [step for step in example["jobs"]["gate"]["steps"] if "ssleval@" in step.get("uses", "")]
    assert steps
    for step in steps:
        assert set(step["with"]) <= set(ACTION["inputs"])
    assert example["permissions"]["pull-requests"] == "write"


@pytest.mark.parametrize("page", ["gate", "publishing"])
def test_workflows_in_the_docs_are_yaml_and_keep_baselines_of_the_main_branch_only(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    (flow,) = (yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S))
    if page == "gate":
        job = flow["gate"]
        assert job["artifacts"]["reports"]["junit"] == "gate/gate.xml"
        assert [cache.get("policy") for cache in job["cache"]] == [None, "$BASELINE"]
        policies = {rule["if"].partition(" ")[0]: rule["variables"]["BASELINE"] for rule in job["rules"]}
        assert policies == {"$CI_PIPELINE_SOURCE": "pull", "$CI_COMMIT_BRANCH": "pull-push"}


def run_step(name: str, folder: Path, tool: str, **inputs: str) -> tuple[int, list[str], str]:
    """Run a step with the defaults of the action; return its exit code, what the tool got, and its output."""
    (folder / "bin").mkdir(exist_ok=True)
    fake = folder / "bin" / tool
    fake.write_text(FAKE)
    fake.chmod(0o755)
    named = {"baseline": "./baseline", "candidate": "run/teacher.pth", **inputs}
    defaults = {name: str(one.get("default", "")) for name, one in ACTION["inputs"].items()}
    values = defaults | {name: value for name, value in named.items() if name in defaults}
    step = {
        variable: values[text.removeprefix("${{ inputs.").removesuffix(" }}")]
        for variable, text in STEPS[name]["env"].items()
    }
    env = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        "GITHUB_ACTION_PATH": "/the/action",
        "RECORD": str(folder / "record"),
        "TABLE": named.get("table", "the table"),
        "CODE": named.get("code", "0"),
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]]
    done = subprocess.run(command, cwd=folder, env=env | step, capture_output=True, text=True, check=False)
    return done.returncode, (folder / "record").read_text().splitlines(), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "inputs", "expected", "outcome"),
    [
        ("0", {}, 0, "outcome=pass"),
        ("1", {}, 1, "outcome=fail"),
        ("3", {}, 3, "outcome=inconclusive"),
        ("3", {"inconclusive": "warn"}, 0, "outcome=inconclusive"),
        ("2", {}, 2, ""),
        ("2", {"table": ""}, 2, ""),
    ],
)
def test_codes_and_outcomes(
    tmp_path: Path, code: str, inputs: dict[str, str], expected: int, outcome: str
) -> None:
    returned, _, said = run_step("Gate", tmp_path, "ssleval", code=code, **inputs)
    assert returned == expected, said
    output = tmp_path / "output"
    assert (output.read_text().strip() if output.exists() else "") == outcome
    summary = tmp_path / "summary"
    assert (summary.read_text().strip() if summary.exists() else "") == inputs.get("table", "the table")
    assert ("::warning::" in said) == (inputs.get("inconclusive") == "warn")


def test_inputs_arrive_as_they_are(tmp_path: Path) -> None:
    evil = "a b; touch hurt $(touch hurt) `touch hurt`"
    inputs = {"candidate": evil, "margins": "knn=0.02\n linear=0.01 ", "first-run": "pass", "limit": "40"}
    _, arguments, _ = run_step("Gate", tmp_path, "ssleval", **inputs)
    pairs = list(pairwise(arguments))
    assert arguments[0] == "gate"
    assert ("--candidate", evil) in pairs
    assert ("--first-run", "pass") in pairs
    assert [value for name, value in pairs if name == "--margin"] == [
        "knn=0.02",
        "linear=0.01",
    ]
    assert not (tmp_path / "hurt").exists()


@pytest.mark.parametrize(("version", "installed"), [("", "/the/action"), ("ssleval==9", "ssleval==9")])
def test_without_a_version_the_checked_out_ref_is_installed(
    tmp_path: Path, version: str, installed: str
) -> None:
    _, arguments, _ = run_step("Install", tmp_path, "python", version=version)
    assert arguments == ["-m", "pip", "install", "--quiet", "--", installed]


class GitHub(BaseHTTPRequestHandler):
    """As much of GitHub's API as comments need."""

    comments: list[dict[str, Any]]
    refused: dict[str, int]
    login: str

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/user":
            return self.answer({"login": self.login}, 200 if self.login else 403)
        assert path == "/repos/o/r/issues/7/comments"
        page = int(query.rpartition("page=")[2])
        return self.answer(self.comments[100 * (page - 1) : 100 * page])

    def do_POST(self) -> None:
        assert self.path == "/repos/o/r/issues/7/comments"
        author = {"login": self.login or "github-actions[bot]", "type": "User" if self.login else "Bot"}
        comment = {"id": len(self.comments), "user": author, **self.content()}
        if not self.refused:
            self.comments.append(comment)
        self.answer({"html_url": "posted"}, self.refused.get("POST", 201))

    def do_PATCH(self) -> None:
        assert self.path.startswith("/repos/o/r/issues/comments/")
        self.comments[int(self.path.rpartition("/")[2])] |= self.content()
        self.answer({"html_url": "updated"})

    def content(self) -> dict[str, str]:
        assert self.headers["Authorization"] == "Bearer secret"
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, content: object, status: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[GitHub]]:
    class Own(GitHub):
        comments, refused, login = [], {}, ""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    event = {"pull_request": {"number": 7, "head": {"sha": "0123456789abcdef"}}}
    (tmp_path / "event.json").write_text(json.dumps(event))
    (tmp_path / "gate.md").write_text("### Gate: first\n")
    for name, value in {
        "NO_PROXY": "127.0.0.1",
        "GITHUB_API_URL": f"http://127.0.0.1:{server.server_address[1]}",
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_RUN_ID": "5",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_TOKEN": "secret",
        "COMMENT": "gate",
        "OUT": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    yield Own
    server.shutdown()
    server.server_close()


def comment() -> None:
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.parametrize("login", ["", "somebody"])
def test_one_comment_is_posted_and_then_updated(
    github: type[GitHub], tmp_path: Path, login: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    github.login = login
    # A page of others' comments, one of which copies the mark.
    stranger = {"login": "mallory", "type": "User"}
    github.comments += [{"id": n, "user": stranger, "body": "hello"} for n in range(105)]
    github.comments[3]["body"] = "<!-- ssleval gate: gate -->"
    comment()
    (tmp_path / "gate.md").write_text("### Gate: second, ask @octocat about top1@20\n")
    comment()
    assert len(github.comments) == 106
    text = github.comments[-1]["body"]
    assert text.startswith("<!-- ssleval gate: gate -->\n### Gate: second")
    assert "first" not in text
    assert "@octocat" not in text
    assert "top1@20" in text
    assert "01234567, [run 5](https://github.com/o/r/actions/runs/5)" in text
    assert github.comments[3]["body"] == "<!-- ssleval gate: gate -->"
    monkeypatch.setenv("COMMENT", "other --> <b>")
    comment()
    assert len(github.comments) == 107
    assert github.comments[-1]["body"].startswith("<!-- ssleval gate: other_____b_ -->\n")


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_comment_that_is_refused_is_a_warning(
    github: type[GitHub], capsys: pytest.CaptureFixture[str], status: int
) -> None:
    github.refused = {"POST": status}
    comment()
    said = capsys.readouterr().out
    assert said.startswith("::warning::the gate's comment was not posted")
    assert said.count("\n") == 1
    assert ("pull-requests: write" in said) == (status < 500)


def test_a_gate_that_did_not_run_takes_back_what_an_earlier_one_said(
    github: type[GitHub], tmp_path: Path
) -> None:
    comment()
    (tmp_path / "gate.md").unlink()
    comment()
    (one,) = github.comments
    assert "first" not in one["body"]
    assert "did not run" in one["body"]


def test_long_tables_are_cut_at_a_line(github: type[GitHub], tmp_path: Path) -> None:
    (tmp_path / "gate.md").write_text("| a row of a table |\n" * 5_000)
    comment()
    text = github.comments[0]["body"]
    assert len(text) < 65_536
    assert "a table |\n\nThe rest is in the summary" in text


def test_without_a_pull_request_or_a_name_nothing_is_posted(
    github: type[GitHub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMMENT", "")
    comment()
    monkeypatch.setenv("COMMENT", "gate")
    (tmp_path / "event.json").write_text("{}")
    comment()
    assert github.comments == []
