"""The page around the data: one file, whose own policy forbids any request and any foreign script.

Names in results are untrusted: templates escape them, data is embedded so that no tag can end early,
and the scripts of the page only ever set text, never markup.
"""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

FOLDER = Path(__file__).parent / "page"

SCRIPTS = (
    "dom.js",
    "data.js",
    "table.js",
    "charts.js",
    "pictures.js",
    "details.js",
    "flips.js",
    "training.js",
    "main.js",
)
"""In the order in which they need each other; together they are one module."""


def render(title: str, data: str) -> str:
    """Return the page that shows ``data``, a JSON text."""
    charts = get_plotlyjs()
    scripts = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.jinja").render(
        title=title,
        policy=_policy(charts, scripts),
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        charts=Markup(charts),
        scripts=Markup(scripts),
        data=Markup(embedded_json(data)),
    )


def embedded_json(text: str) -> str:
    """Return JSON of equal meaning that is safe inside a script element.

    Source:
        HTML standard, 4.12.1.3: neither ``</script`` nor ``<!--`` may occur.
    """
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return text.translate(str.maketrans(escapes))


def _policy(*scripts: str) -> str:
    """Return a content security policy under which only these scripts run and nothing is fetched."""
    hashes = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
