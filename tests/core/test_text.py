import pytest

from ssleval.core.text import counted, public_names, without_folders


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (12_000, "12,000 tasks")]
)
def test_one_is_singular_and_all_other_numbers_are_plural(count: int, text: str) -> None:
    assert counted(count, "task") == text


def test_an_irregular_plural_is_given() -> None:
    assert [counted(count, "pass", "passes") for count in (1, 2)] == ["1 pass", "2 passes"]


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("folder:/srv/me/cats", "folder:cats"),
        ("random:/srv/me/net.py:build", "random:net.py:build"),
        ("captions:/a/b.csv,/c/d", "captions:b.csv,d"),
        ("no file /x/y/z.pth; see ~/q/w and 'C:\\q\\v.pt'", "no file z.pth; see w and 'v.pt'"),
        ("hf:org/name, ./here/x and ../up", "hf:org/name, ./here/x and ../up"),
        ("https://host/a/b", "https://host/a/b"),
        ("3 / 4, km/h, /", "3 / 4, km/h, /"),
    ],
)
def test_of_absolute_paths_the_last_part_stays(text: str, public: str) -> None:
    assert without_folders(text) == public


def test_names_that_would_be_alike_stay_apart() -> None:
    found = public_names(["folder:/a/x", "folder:/b/x", "digits", "digits"])
    assert found["digits"] == "digits"
    assert len(set(found.values())) == 3
    assert all(name.startswith("folder:x#") for key, name in found.items() if key != "digits")
