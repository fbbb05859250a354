import pytest

from ssleval.core.text import counted


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (12_000, "12,000 tasks")]
)
def test_one_is_singular_and_all_other_numbers_are_plural(count: int, text: str) -> None:
    assert counted(count, "task") == text


def test_an_irregular_plural_is_given() -> None:
    assert [counted(count, "pass", "passes") for count in (1, 2)] == ["1 pass", "2 passes"]
