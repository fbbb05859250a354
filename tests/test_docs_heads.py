"""The page of every task begins alike: the question, a command, what it costs, and the score to expect."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ssleval.run.settings import build_task, parse_settings
from ssleval.run.suites import read_suite

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "tasks").glob("*.md"))
FORM = re.compile(
    r"# (?P<name>\w+)\n\n"
    r"(?P<question>[A-Z][^#|`]*(?:`[^`\n]+`[^#|`]*)*)\n\n"
    r"```bash\n(?P<command>ssleval run (?:[^\n]|(?<=\\)\n)*)\n```\n\n"
    r"\| processor time \| most of it \| expected \|\n"
    r"\|:---\|:---\|:---\|\n"
    r"\| (?P<cost>[^|\n]+) \| (?P<most>[^|\n]+) \| (?P<expected>[^|\n]+) \|\n\n"
)
SCORE = re.compile(
    r"`(?P<metric>[\w@.-]+)` (?P<value>-?[\d.]+) \[(?P<low>-?[\d.]+), (?P<high>-?[\d.]+)\](?: \S+)?"
)
ELSEWHERE = {"caption_retrieval", "robustness", "zeroshot"}
"""Tasks that need a text tower or ImageNet: their heads say what a paper prints, or that none does."""


class Head(NamedTuple):
    """What the head of a page says."""

    name: str
    words: list[str]
    cost: str
    most: str
    expected: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the task in the command."""
        given = [after for word, after in zip(self.words, self.words[1:], strict=False) if word == "--set"]
        return parse_settings(tuple(given)).get(self.name, {})

    def option(self, name: str) -> str:
        """Return what the command says for an option."""
        return self.words[self.words.index(name) + 1]


@cache
def head(page: str) -> Head:
    """Return the head of a page, given as its text.

    Raises:
        ValueError: it has another form.
    """
    form = FORM.match(page)
    if not form:
        raise ValueError(
            "expected: # NAME, a paragraph, `ssleval run ...`, | processor time | most of it | expected |"
        )
    words = shlex.split(form["command"].replace("\\\n", " "))
    return Head(form["name"], words, form["cost"], form["most"], form["expected"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_of_a_task_has_the_head(page: Path) -> None:
    found = head(page.read_text(encoding="utf-8"))
    assert found.name == page.stem == found.option("--task")
    build_task(found.name, found.settings)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem not in ELSEWHERE], ids=lambda page: page.stem
)
def test_what_runs_on_scenes_was_measured_there(page: Path) -> None:
    found = head(page.read_text(encoding="utf-8"))
    assert found.option("--model") == "dino_scenes"
    assert found.option("--dataset").partition(":")[0] == "scenes"
    assert re.fullmatch(r"[1-9]\d* s", found.cost)
    score = SCORE.fullmatch(found.expected)
    assert score
    assert float(score["low"]) <= float(score["value"]) <= float(score["high"])


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem in ELSEWHERE], ids=lambda page: page.stem
)
def test_what_does_not_says_why(page: Path) -> None:
    assert re.match(r"not measured here: needs \w+", head(page.read_text(encoding="utf-8")).cost)


def test_commands_are_lines_of_the_suite_of_every_task() -> None:
    heads = {
        page.stem: head(page.read_text(encoding="utf-8")) for page in PAGES if page.stem not in ELSEWHERE
    }
    lines = {line.task: line for line in read_suite("all") if line.task in heads}
    assert set(lines) == set(heads)
    for name, line in lines.items():
        assert line.dataset == heads[name].option("--dataset"), name
        assert build_task(name, line.settings) == build_task(name, heads[name].settings), name


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_scores_are_the_committed_ones(name: str) -> None:
    board = (ROOT / "results" / "leaderboard.md").read_text(encoding="utf-8")
    _, score = head((ROOT / "docs" / "tasks" / f"{name}.md").read_text(encoding="utf-8")).expected.split(
        maxsplit=1
    )
    # The network was chosen by its k-NN on `scenes`, which a board marks.
    assert f"| dino_scenes | {score}† |" in board.partition(f"### {name}/scenes")[2]


HEAD = """# knn

How well?

```bash
ssleval run --model dino_scenes --task knn \\
    --set knn.ks=5
```

| processor time | most of it | expected |
|:---|:---|:---|
| 5 s | images | `top1@20` 68.4 [65.5, 71.2] |

"""


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ("How well?\n\n", ""),
        ("```bash", "```"),
        ("ssleval run", "ssleval show"),
        ("| processor time | most of it | expected |\n|:---|:---|:---|\n", ""),
        ("| 5 s | images |", "| 5 s |"),
        ("```\n\n|", "```\n\nWords.\n\n|"),
    ],
)
def test_another_form_is_refused(there: str, instead: str) -> None:
    assert head(HEAD).settings == {"ks": "5"}
    with pytest.raises(ValueError, match="expected: # NAME"):
        head(HEAD.replace(there, instead))


def test_the_reference_in_python_has_every_task() -> None:
    listed = re.findall(
        r"^::: ssleval\.tasks\.(\w+)$", (ROOT / "docs" / "api-tasks.md").read_text(encoding="utf-8"), re.M
    )
    modules = (ROOT / "ssleval" / "tasks").glob("*.py")
    assert listed == sorted(path.stem for path in modules if path.stem != "__init__")
