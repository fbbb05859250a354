r"""Names that others chose, made safe in what we write: one function for each format.

Names of models, files and classes come from files, plug-ins and the web. `visible` writes what a reader would
not see, or what would act on a terminal, as an escape sequence such as ``\x1b``; the other functions do this
first. HTML is escaped by the report's templates and scripts, and JSON by its own writer.
"""

import json
import re
import unicodedata
from collections.abc import Collection, Sequence

LONGEST_NAME = 300
"""Characters of a word in messages and tables for people; of a longer one, the middle is left out."""
_LONGEST_LINE = 8_000

_ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Controls, formats such as the override of writing direction, halves of surrogate pairs, line separators."""
_JOINERS = "\u200c\u200d"
"""Formats that Persian, Indian scripts and emoji are written with."""
_LONG_WORD = re.compile(rf"[^\s]{{{LONGEST_NAME + 1},}}")
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_ESCAPED = re.compile(r"\x7f|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|\\u[0-9a-f]{4}|\\.")
_WORKFLOW = re.compile(r"^(\s*):(?=:)|#(?=#\[)")
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_FORMULA = re.compile(r"^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def visible(text: str) -> str:
    """Return the text with everything that acts or hides written as an escape sequence; it has one line."""
    if text.isprintable():
        return text
    return "".join(
        character if _is_plain(character) else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """Return the text without its middle where it has more than ``longest`` characters."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}...[{len(text) - 2 * half:,} characters]...{text[-half:]}"


def terminal_line(text: str) -> str:
    """Return one line that no terminal and no log of GitHub Actions takes for a command; long words are cut.

    Source:
        ``::error::`` at the start of a line and ``##[error]`` anywhere are commands of GitHub's runner.
    """
    cut = shortened(_LONG_WORD.sub(lambda word: shortened(word.group()), text), _LONGEST_LINE)
    return _WORKFLOW.sub(lambda start: f"{start[1] or ''}\\x{ord(start[0][-1]):02x}", visible(cut))


def markdown_cell(text: str) -> str:
    """Return a cell of a Markdown table, or part of a heading, that shows the text itself.

    Source:
        CommonMark 0.31, 2.4: any ASCII punctuation may follow a backslash; GitHub's tables: so may a bar.
    """
    shown = _MARKUP.sub(r"\\\g<0>", visible(shortened(text)))
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[int] = (0,)) -> str:
    """Return a Markdown table of cells that are escaped already; all columns but ``texts`` are numbers."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    aligned = (":---|" if column in texts else "---:|" for column in range(len(heads)))
    return "\n".join([lines[0], f"|{''.join(aligned)}", *lines[1:]])


def csv_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: one that could be gets an apostrophe in front.

    Source:
        OWASP, CSV injection.
    """
    return f"'{visible(text)}" if _FORMULA.match(text) else visible(text)


def latex_cell(text: str) -> str:
    """Return a cell of a LaTeX table that shows the text itself."""
    return "".join(_LATEX.get(character, character) for character in visible(shortened(text)))


def visible_json(text: str) -> str:
    """Return a JSON text, as `json.dumps` writes it, whose texts are `visible` when it is read."""
    return _ESCAPED.sub(lambda found: _visible_escape(found.group()), text)


def _visible_escape(escaped: str) -> str:
    character = json.loads(f'"{escaped}"')
    return escaped if character in '"\\/' else json.dumps(visible(character))[1:-1]


xml_text = visible
"""XML 1.0 has no way to write control characters and noncharacters; its writers escape ``<`` and ``&``."""


def _is_plain(character: str) -> bool:
    if character in _JOINERS:
        return True
    # The last two of each plane are no characters, and not allowed in XML.
    return unicodedata.category(character) not in _ACTING and ord(character) & 0xFFFE != 0xFFFE
