import csv
import html
import io
import json
import re
import unicodedata
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssleval.core import escape

NAMES = (
    "=1+1", "+1", "-1", "@sum", "\t=1", "\r=1", " =1", "\uff1d1", "a|b", "a\nb", "`a`", "[x](javascript:1)",
    "<img src=x>", "&lt;", "\\", "\\|", "*a*", "_a_", "~~a~~", "$a$", "a\x1b[2Jb", "\x9b31m", "a\u202eb",
    "a\u2066b", "a\u2028b", "\x00", "\x7f", "\ud800", "\udcff", "\ufffe", "\U000e0041", "::error::x",
    " ::set-output", "##[error]x", "]]>", "a\x85b", "", " ", "dinov2_vitb14_reg", "\u0645\u06cc\u200c\u062e",
    "gr\u00f6\u00dfe \u6f22\u5b57", "\U0001f469\u200d\U0001f52c",
)  # fmt: skip


def acts(text: str) -> bool:
    """Whether a character of these kinds is left: control, writing direction, half a pair, line separator."""
    kinds = {unicodedata.category(character) for character in text if character not in "\u200c\u200d"}
    return bool(kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"})


def cells(line: str) -> list[str]:
    """Return the texts that GitHub shows of a row of a table: split at bare bars, escapes resolved."""
    inner = line.strip().removeprefix("|").removesuffix("|")
    parts = re.split(r"(?<!\\)((?:\\\\)*)\|", inner)
    joined = [parts[i] + (parts[i + 1] if i + 1 < len(parts) else "") for i in range(0, len(parts), 2)]
    return [html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell.strip())) for cell in joined]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_back_from_every_format_as_its_visible_self(name: str) -> None:
    shown = escape.visible(name)
    assert not acts(shown)
    assert cells(f"| {escape.markdown_cell(name)} | 7 |") == [shown.strip(), "7"]
    assert not re.search(r"(?<!\\)[`*\[\]$~]|<", escape.markdown_cell(name))
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow([escape.csv_cell(name), "7"])
    assert file.getvalue().count("\n") == 1
    ((back, seven),) = csv.reader(io.StringIO(file.getvalue()))
    assert (back.removeprefix("'"), seven) == (shown, "7")
    assert not re.match(r"\s*[=+\-@\t\r\uff1d]", back)
    element = ElementTree.Element("a", {"b": escape.xml_text(name)})
    element.text = escape.xml_text(name)
    parsed = ElementTree.fromstring(ElementTree.tostring(element, encoding="unicode"))
    assert (parsed.get("b"), parsed.text or "") == (shown, shown)
    assert json.loads(escape.visible_json(json.dumps({name: [name]}))) == {shown: [shown]}


@given(st.text(), st.text())
def test_no_text_acts_and_plain_texts_stay(name: str, other: str) -> None:
    for shown in (
        escape.visible(name),
        escape.markdown_cell(name),
        escape.csv_cell(name),
        escape.terminal_line(name),
    ):
        assert not acts(shown)
        assert shown.count("\n") == 0
    shown = escape.visible(f"{name}|{other}")[:100]
    assert cells(f"| {escape.markdown_cell(shown)} |") == [shown.strip()]


@pytest.mark.parametrize(
    "line", ["::error::x", "  ::error file=a::b", "a ##[error]b", "\n::error::x", "%0A::error::"]
)
def test_no_line_is_a_command_to_a_runner(line: str) -> None:
    shown = escape.terminal_line(line)
    assert not shown.lstrip().startswith("::")
    assert "##[" not in shown


@pytest.mark.parametrize(
    "name", ["plain", "dinov2_vitb14_reg", "timm:vit_tiny/16", "pck@0.1", "größe 漢字", "C:\\data"]
)
def test_usual_names_are_printed_as_they_are(name: str) -> None:
    assert escape.terminal_line(name) == name


def test_of_a_very_long_name_both_ends_and_its_length_are_shown() -> None:
    line = escape.terminal_line(f"no model {'a' * 500_000}{'b' * 500_000}; did you mean vit_tiny?")
    assert re.fullmatch(r"no model a{150}\.\.\.\[999,701 characters\]\.\.\.b{149};.*", line)
    assert line.endswith("did you mean vit_tiny?")
    assert len(escape.terminal_line("word " * 200_000)) < 9_000
    assert len(escape.markdown_cell("a" * 10**6)) < 400
    assert len(escape.terminal_line("\x1b" * 10**6)) < 2_000
