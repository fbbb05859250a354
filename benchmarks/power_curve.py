"""Draw what `benchmarks.calibration --power FILE.json` measured, as SVG.

python -m benchmarks.power_curve FILE.json docs/images/power.svg
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 380, 60, 50, 16
FARTHEST = 1.75
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")


def drawing(power: dict[str, Sequence[Sequence[float]]]) -> str:
    """Return the curves of every kind: the share of comparisons found against the relative effect."""
    parts = [*_frame(), *_line((1, 0), (1, 1), "4"), *_line((0, 0.8), (FARTHEST, 0.8), "4")]
    for row, ((kind, curve), colour) in enumerate(zip(power.items(), COLOURS, strict=False)):
        points = " ".join("{:.1f},{:.1f}".format(*_place(relative, share)) for share, relative in curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - 110}" y="{200 + 20 * row}" fill="{colour}">{kind}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
    style = 'font-family="sans-serif" font-size="13" fill="#222"'
    title = "<title>Share of comparisons that find a true difference, against its size</title>"
    return "\n".join([f"{head} {style}>", title, *parts, "</svg>", ""])


def _place(relative: float, share: float) -> tuple[float, float]:
    across, up = WIDTH - LEFT - 20, HEIGHT - BOTTOM - TOP
    return LEFT + across * relative / FARTHEST, HEIGHT - BOTTOM - up * share


def _line(start: tuple[float, float], end: tuple[float, float], dashes: str = "none") -> list[str]:
    (x1, y1), (x2, y2) = _place(*start), _place(*end)
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return [f'<line {ends} stroke="#999" stroke-dasharray="{dashes}"/>']


def _frame() -> list[str]:
    parts = ['<rect width="100%" height="100%" fill="white"/>']
    parts += [*_line((0, 0), (FARTHEST, 0)), *_line((0, 0), (0, 1))]
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x, y = _place(0, share)
        parts.append(f'<text x="{x - 8:.0f}" y="{y + 4:.0f}" text-anchor="end">{share:.0%}</text>')
    for relative in (0, 0.5, 1, 1.5):
        x, y = _place(relative, 0)
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{relative:g}</text>')
    label = "true difference / smallest detectable difference"
    parts.append(f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{label}</text>')
    return parts


if __name__ == "__main__":
    measured = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(drawing(measured["power"]), encoding="utf-8")
