"""The HTML page around the data: one file, whose content security policy forbids requests and other scripts.

Names in results are untrusted. Templates escape them, data is embedded so that it cannot close its element,
and the scripts of the page set text, never markup.
"""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ssleval.core.escape import visible

FOLDER = Path(__file__).parent / "page"

SCRIPTS = (
    *("dom", "data", "view", "matrix", "table", "charts", "cost"),
    *("pictures", "details", "flips", "training", "curves", "similarity", "main"),
)
"""In the order of their dependencies; together they are one module."""


def render(title: str, data: str) -> str:
    """Return the page that shows ``data``, a JSON text."""
    charts = get_plotlyjs()
    scripts = "\n".join((FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html.jinja").render(
        title=visible(title),
        policy=_policy(charts, scripts),
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        charts=Markup(charts),
        scripts=Markup(scripts),
        data=Markup(embedded_json(data)),
    )


def embedded_json(text: str) -> str:
    """Return equivalent JSON that is safe inside a script element.

    Source:
        HTML standard, 4.12.1.3: it must contain neither ``</script`` nor ``<!--``.
    """
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return text.translate(str.maketrans(escapes))


def _policy(*scripts: str) -> str:
    """Return a content security policy under which only these scripts run and nothing is fetched."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
