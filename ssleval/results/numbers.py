"""How scores are written for people: fractions as percent, as papers print them, other units as they are."""


def scale(unit: str) -> float:
    """Return 100 for fractions, which are shown as percent, and 1 for other units."""
    return 100.0 if unit == "fraction" else 1.0


def decimals(unit: str, *, compared: bool = False) -> int:
    """Return the decimals of a score: 1 of percent, 3 of other units; one more where scores are compared."""
    return (1 if unit == "fraction" else 3) + compared


def shown(value: float, unit: str, places: int | None = None) -> str:
    """Return a score with ``places`` decimals; by default those of a score that stands alone."""
    places = decimals(unit) if places is None else places
    return f"{value * scale(unit):.{places}f}"


def with_interval(value: float, interval: tuple[float, float], unit: str, places: int | None = None) -> str:
    """Return a score with the ends of its interval, as ``74.5 [72.1, 76.9]``."""
    low, high = (shown(end, unit, places) for end in interval)
    return f"{shown(value, unit, places)} [{low}, {high}]"
