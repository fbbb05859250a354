import pytest

from ssleval.display.report.shortpaths import ShortPaths, ShownIds, short_names


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("folder:/srv/someone/data/pets", "folder:pets"),
        ("folder:data/pets", "folder:pets"),
        ("folder:~/pets/", "folder:pets"),
        ("manifest:/srv/sets/list.csv", "manifest:list.csv"),
        ("navi_pairs:data/navi_v1", "navi_pairs:navi_v1"),
        ("/srv/someone/net.py:make", "net.py:make"),
        ("native:C:\\models\\vit.pt", "native:vit.pt"),
    ],
)
def test_of_a_path_its_last_part_is_shown(name: str, short: str) -> None:
    assert short_names([name]) == {name: short}
    assert ShortPaths([name])(f"{name} (weights 12345678)") == f"{short} (weights 12345678)"


@pytest.mark.parametrize(
    "name", ["cifar100", "hf:owner/set:test", "timm:vit_base/16", "folder:pets", "scenes@1"]
)
def test_other_names_stay(name: str) -> None:
    assert ShortPaths([name])(name) == name


def test_two_folders_of_one_name_stay_distinct() -> None:
    names = [
        "folder:/a/one/pets",
        "folder:/b/one/pets",
        "folder:/a/two/pets",
        "folder:/a/two/birds",
        "folder:/pets",
    ]
    short = short_names(names)
    assert len(set(short.values())) == len(names)
    assert short["folder:/a/two/birds"] == "folder:birds"
    assert not any(":/" in text for text in short.values())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("weights of /srv/someone/x.pt, strict", "weights of x.pt, strict"),
        ("'/srv/someone/my file.csv'", "'my file.csv'"),
        ("/srv/some one/x.pt", "x.pt"),
        ("~/weights/x.pt", "x.pt"),
        ("=cmd|'/c x'!A [bold][/] and /or", "=cmd|'/c x'!A [bold][/] and /or"),
        ("https://example.org/a/b.pt", "https://example.org/a/b.pt"),
        ("images/s (a/b), n01/x.jpg", "images/s (a/b), n01/x.jpg"),
        ("owner/model@24f8c60 hub/utils.py:14-26", "owner/model@24f8c60 hub/utils.py:14-26"),
    ],
)
def test_folders_of_this_machine_are_left_out_of_texts_and_addresses_are_not(text: str, shown: str) -> None:
    short = ShortPaths(["folder:/data/pets"])
    assert short(text) == shown
    assert short({"folder:/data/pets/test": [text, 1, None]}) == {"folder:pets/test": [shown, 1, None]}


def test_a_shared_value_is_shortened_once() -> None:
    short, card = ShortPaths([]), {"source": "/srv/someone/x"}
    assert short.shared(card) == {"source": "x"}
    assert short.shared(card) is short.shared(card)
    assert card == {"source": "/srv/someone/x"}


def test_ids_start_below_the_folder_that_all_share_and_stay_distinct() -> None:
    ids, shown = ["/data/set/a/1.jpg", "/data/set/b/1.jpg", "c/1.jpg"], ShownIds()
    assert shown.shown("set", ids) == ["a/1.jpg", "b/1.jpg", "c/1.jpg"]
    assert shown.shown("set", ids) is shown.shown("set", ids)
    assert shown.shown("set", ["/data/set/b/1.jpg", "/data/else/b/1.jpg"]) == ["b/1.jpg", "../else/b/1.jpg"]
    assert shown.shown_one("set", "/data/set/a/1.jpg") == "a/1.jpg"
    relative = ["a/1.jpg"]
    assert shown.shown("other", relative) is relative
