"""Verdicts for people and for CI: a Markdown table, JSON, JUnit XML. Imports no torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from ssleval.checks.gate.verdicts import Verdict, overall
from ssleval.core.escape import markdown_cell, xml_text
from ssleval.core.files import write_text_atomically
from ssleval.results.numbers import decimals, shown, with_interval

_SIGNS = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "❔ inconclusive"}


def markdown(verdicts: Sequence[Verdict]) -> str:
    """Return the table for a pull-request comment; what needs attention comes first."""
    order = ("fail", "inconclusive", "pass")
    lines = [
        f"### Gate: {_SIGNS[overall(verdicts)]}",
        "",
        "| verdict | task | metric | baseline | candidate | better by [90 %] | margin | n | seeds | why |",
        "|:---|:---|:---|---:|---:|---:|---:|---:|---:|:---|",
    ]
    for one in sorted(verdicts, key=lambda one: order.index(one.outcome)):
        first, second, margin, gain = _numbers(one)
        names, numbers = map(markdown_cell, (one.name, one.metric)), (first, second, gain, margin)
        cells = (_SIGNS[one.outcome], *names, *numbers, one.n, one.seeds, markdown_cell(one.reason))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _numbers(one: Verdict) -> tuple[str, ...]:
    """Return baseline, candidate, margin and gain as text."""
    places = decimals(one.unit, compared=True)
    plain = (shown(value, one.unit, places) for value in (one.baseline, one.candidate, one.margin))
    return *plain, with_interval(one.gain, one.ci90, one.unit, places)


def to_json(verdicts: Sequence[Verdict]) -> str:
    """Return ``{"outcome": ..., "tasks": [...]}``."""
    content = {"outcome": overall(verdicts), "tasks": [one.to_dict() for one in verdicts]}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def junit(verdicts: Sequence[Verdict], suite: str) -> str:
    """Return a JUnit report: one test case a task; inconclusive ones are skipped, with the reason."""
    counts = {
        "tests": str(len(verdicts)),
        "failures": str(sum(one.outcome == "fail" for one in verdicts)),
        "errors": "0",
        "skipped": str(sum(one.outcome == "inconclusive" for one in verdicts)),
        "time": "0",
    }
    root = ElementTree.Element("testsuites", {"name": "ssleval gate", **counts})
    group = ElementTree.SubElement(root, "testsuite", {"name": xml_text(suite), **counts})
    for one in verdicts:
        name = {
            "classname": f"ssleval.{xml_text(one.task)}",
            "name": xml_text(f"{one.dataset} {one.metric}"),
            "time": "0",
        }
        case = ElementTree.SubElement(group, "testcase", name)
        _, _, margin, gain = _numbers(one)
        message = xml_text(f"better by {gain}, margin {margin}: {one.reason}")
        if one.outcome == "fail":
            ElementTree.SubElement(case, "failure", {"type": "inferior", "message": message}).text = message
        elif one.outcome == "inconclusive":
            ElementTree.SubElement(case, "skipped", {"message": message})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def write_reports(verdicts: Sequence[Verdict], suite: str, folder: Path) -> list[Path]:
    """Write ``gate.md``, ``gate.json`` and ``gate.xml`` into ``folder``."""
    declaration = '<?xml version="1.0" encoding="utf-8"?>\n'
    texts = {
        "gate.md": markdown(verdicts),
        "gate.json": to_json(verdicts),
        "gate.xml": declaration + junit(verdicts, suite),
    }
    for name, text in texts.items():
        write_text_atomically(folder / name, text)
    return [folder / name for name in texts]
