import pytest

from ssleval.results.numbers import decimals, shown, with_interval


@pytest.mark.parametrize(
    ("value", "unit", "alone", "compared"),
    [
        (0.7446, "fraction", "74.5", "74.46"),
        (0.41706, "metre", "0.417", "0.4171"),
        (0.0, "x", "0.000", "0.0000"),
    ],
)
def test_fractions_are_percent_and_compared_scores_have_one_more_decimal(
    value: float, unit: str, alone: str, compared: str
) -> None:
    assert shown(value, unit) == alone
    assert shown(value, unit, decimals(unit, compared=True)) == compared


def test_an_interval_has_the_decimals_of_its_score() -> None:
    assert with_interval(0.745, (0.7, 0.791), "fraction") == "74.5 [70.0, 79.1]"
    assert with_interval(0.745, (0.7, 0.791), "fraction", 2) == "74.50 [70.00, 79.10]"
