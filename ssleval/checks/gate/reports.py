"""Verdicts for people and for CI: a Markdown table, JSON, JUnit XML. Imports no torch.

The Markdown is for a pull request, which others read: of absolute paths it shows the last part.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from ssleval.checks.gate.verdicts import Verdict, overall
from ssleval.core.escape import markdown_cell, markdown_table, xml_text
from ssleval.core.files import write_text_atomically
from ssleval.core.text import public_names, without_folders
from ssleval.results.numbers import decimals, shown, with_interval

_SIGNS = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}
_HEADS = (
    *("verdict", "task", "metric", "baseline", "candidate", "better by [90 %]", "margin", "n", "seeds"),
    "why",
)


def markdown(verdicts: Sequence[Verdict]) -> str:
    """Return the table for a pull-request comment; what needs attention comes first."""
    order, public = ("fail", "inconclusive", "pass"), public_names(one.name for one in verdicts)
    first = ", with nothing to compare with" if any(one.is_first for one in verdicts) else ""
    head = f"### Gate: {_SIGNS[overall(verdicts)]}{first}"
    rows: list[list[str]] = []
    for one in sorted(verdicts, key=lambda one: order.index(one.outcome)):
        first, second, margin, gain = _numbers(one)
        names = map(markdown_cell, (public[one.name], one.metric))
        numbers, why = (first, second, gain, margin), markdown_cell(without_folders(one.reason))
        rows.append([_SIGNS[one.outcome], *names, *numbers, str(one.n), str(one.seeds), why])
    return f"{head}\n\n{markdown_table(_HEADS, rows, texts={0, 1, 2, 9})}\n"


def _numbers(one: Verdict) -> tuple[str, ...]:
    """Return baseline, candidate, margin and gain as text; '' for what a first run does not have."""
    places = decimals(one.unit, compared=True)
    plain = (shown(value, one.unit, places) for value in (one.baseline, one.candidate, one.margin))
    first, *others = plain
    if one.is_first:
        return "", *others, ""
    return first, *others, with_interval(one.gain, one.ci90, one.unit, places)


def to_json(verdicts: Sequence[Verdict]) -> str:
    """Return ``{"outcome": ..., "first_run": ..., "tasks": [...]}``."""
    is_first = any(one.is_first for one in verdicts)
    content = {
        "outcome": overall(verdicts),
        "first_run": is_first,
        "tasks": [one.to_dict() for one in verdicts],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def junit(verdicts: Sequence[Verdict], suite: str) -> str:
    """Return a JUnit report: one test case a task; inconclusive ones are skipped, with the reason."""
    root, group = _suite(
        suite,
        tests=len(verdicts),
        failures=sum(one.outcome == "fail" for one in verdicts),
        skipped=sum(one.outcome == "inconclusive" for one in verdicts),
        time=sum(one.seconds for one in verdicts),
    )
    for one in verdicts:
        name = {
            "classname": f"ssleval.{xml_text(one.task)}",
            "name": xml_text(f"{one.dataset} {one.metric}"),
            "time": f"{one.seconds:.3f}",
        }
        case = ElementTree.SubElement(group, "testcase", name)
        _, _, margin, gain = _numbers(one)
        compared = "" if one.is_first else f"better by {gain}, margin {margin}: "
        message = xml_text(f"{compared}{one.reason}")
        if one.outcome == "fail":
            ElementTree.SubElement(case, "failure", {"type": "inferior", "message": message}).text = message
        elif one.outcome == "inconclusive":
            ElementTree.SubElement(case, "skipped", {"message": message})
        else:
            ElementTree.SubElement(case, "system-out").text = message
    return _xml(root)


def write_reports(verdicts: Sequence[Verdict], suite: str, folder: Path) -> list[Path]:
    """Write ``gate.md``, ``gate.json`` and ``gate.xml`` into ``folder``."""
    return _write(folder, markdown(verdicts), to_json(verdicts), junit(verdicts, suite))


def write_error(message: str, suite: str, folder: Path, seconds: float) -> list[Path]:
    """Write the same files where the gate could not judge: one test case with an error."""
    root, group = _suite(suite, tests=1, errors=1, time=seconds)
    name = {"classname": "ssleval.gate", "name": "the gate runs", "time": f"{seconds:.3f}"}
    case, text = ElementTree.SubElement(group, "testcase", name), xml_text(message)
    ElementTree.SubElement(case, "error", {"type": "error", "message": text}).text = text
    said = f"### Gate: ⚠️ it could not judge\n\n{markdown_cell(without_folders(message))}\n"
    content = json.dumps({"outcome": "error", "reason": message, "tasks": []}, indent=1) + "\n"
    return _write(folder, said, content, _xml(root))


def remove_reports(folder: Path) -> None:
    """Remove what an earlier gate wrote: it must not pass for the report of this one."""
    for name in _NAMES:
        (folder / name).unlink(missing_ok=True)


_NAMES = ("gate.md", "gate.json", "gate.xml")


def _suite(
    name: str, *, tests: int, failures: int = 0, errors: int = 0, skipped: int = 0, time: float
) -> tuple[ElementTree.Element, ElementTree.Element]:
    numbers = {"tests": tests, "failures": failures, "errors": errors, "skipped": skipped}
    counts = {**{count: str(number) for count, number in numbers.items()}, "time": f"{time:.3f}"}
    root = ElementTree.Element("testsuites", {"name": "ssleval gate", **counts})
    return root, ElementTree.SubElement(root, "testsuite", {"name": xml_text(name), **counts})


def _xml(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def _write(folder: Path, *texts: str) -> list[Path]:
    declared = (*texts[:2], f'<?xml version="1.0" encoding="utf-8"?>\n{texts[2]}')
    for name, text in zip(_NAMES, declared, strict=True):
        write_text_atomically(folder / name, text)
    return [folder / name for name in _NAMES]
