"""Parts of a sweep: together they are the whole, and no two of them read the same pass."""

import json
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssleval.core import Dataset, DatasetCard, FeatureRequest, Readout
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.run.jobs import Job
from ssleval.run.parts import Groups, Part, Unit, read_part, share, shares, units_of
from ssleval.tasks.spectrum import Spectrum
from tests.cli.test_cli import Cli, cli  # noqa: F401  # pyright: ignore[reportUnusedImport]
from tests.train.tiny_training import pictures

ZOO = "dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14", "dinov2_vitg14"


@dataclass(frozen=True)
class Reading(Spectrum):
    """A task that reads splits of sets; a name with ! is of one it runs the model on itself."""

    sets: tuple[str, ...] = ()

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        return tuple(
            FeatureRequest(
                set_of(name.strip("!")), "train", None, () if "!" in name else (Readout("pooled"),)
            )
            for name in self.sets
        )


def set_of(name: str, pictures: str = "", images: int = 10) -> Dataset:
    return Dataset(
        DatasetCard(name, lengths={"train": images}), open=lambda _: pytest.fail("opened"), pictures=pictures
    )


def group(name: str, *reads: str, images: int = 10) -> tuple[Job, ...]:
    return (Job("reading", Reading(sets=reads or (name,)), name, set_of(name, images=images)),)


def named(units: list[Unit]) -> list[str]:
    return list(map(str, units))


@pytest.mark.parametrize(
    ("text", "part"), [("1/1", Part(1, 1)), ("3/60", Part(3, 60)), ("007/8", Part(7, 8))]
)
def test_a_part_is_read(text: str, part: Part) -> None:
    assert read_part(text) == part


@pytest.mark.parametrize(
    "text",
    ["", "3", "0/60", "61/60", "-1/3", "1/0", "3/60/2", "a/b", "1.5/3", "1 / 3", "1/9999999", "٣/٤", "1/3\n"],
)
def test_other_texts_are_refused_in_words_that_say_where_counting_begins(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"counted from 1, as 1/\d+ to (\d+)/\1; where an index begins at 0"
    ):
        read_part(text)


@given(
    st.lists(st.sampled_from([*ZOO, "timm:x", "pixels"]), min_size=1, unique=True),
    st.lists(st.sampled_from(["digits", "folder:a", "cifar10", "dtd"]), min_size=1, unique=True),
    st.integers(1, 12),
)
def test_parts_are_the_whole_each_unit_once(models: list[str], names: list[str], count: int) -> None:
    groups = tuple(group(name, images=100 + len(name)) for name in names)
    parts = [share(Part(number, count), models, groups) for number in range(1, count + 1)]
    found = [(model, one) for part in parts for model, own in part for one in own]
    assert len(found) == len(models) * len(names)
    assert {(model, one[0].dataset_name) for model, one in found} == {(m, n) for m in models for n in names}
    # None is idle while another has two to do.
    sizes = [sum(len(own) for _, own in part) for part in parts]
    assert not (0 in sizes and max(sizes) > 1)


def test_without_a_part_all_is_measured_in_its_order() -> None:
    groups = group("a"), group("b")
    assert share(None, ["y", "x"], groups) == [("y", groups), ("x", groups)]


def test_of_unknown_cost_parts_take_turns() -> None:
    units = units_of(["timm:a", "timm:b"], (group("folder:x"), group("folder:y"), group("folder:z")))
    first, second = shares(units, 2)
    assert named(first) == ["timm:a on folder:x", "timm:a on folder:z", "timm:b on folder:y"]
    assert named(second) == ["timm:a on folder:y", "timm:b on folder:x", "timm:b on folder:z"]


def test_of_known_cost_the_dearest_model_has_a_part_of_its_own() -> None:
    # ViT-g has 1.1 billion parameters, the others together 0.4.
    first, second = shares(units_of(ZOO, (group("digits"),)), 2)
    assert named(first) == ["dinov2_vitg14 on digits"]
    assert named(second) == [f"{name} on digits" for name in ZOO[:3]]


def test_images_count_as_well() -> None:
    sets = group("cifar10", images=900), group("dtd", images=300), group("digits", images=500)
    first, second = shares(units_of(["dinov2_vits14"], sets), 2)
    assert (named(first), named(second)) == (
        ["dinov2_vits14 on cifar10"],
        ["dinov2_vits14 on dtd", "dinov2_vits14 on digits"],
    )


def test_images_of_a_folder_do_not_for_a_copy_may_have_others() -> None:
    def parts(images: int) -> list[list[str]]:
        sets = group("folder:x", images=images), group("digits", images=500), group("dtd", images=9)
        return [named(own) for own in shares(units_of(["dinov2_vits14"], sets), 2)]

    assert parts(1) == parts(1_000_000)


@pytest.mark.parametrize(
    ("sets", "apart"),
    [
        ([("a",), ("b",)], ["a", "b"]),
        ([("a",), ("b", "b", "a")], ["a+b"]),
        ([("v2", "v2", "train"), ("x",), ("r", "r", "train")], ["v2+r", "x"]),
        ([("a", "a", "p"), ("b", "b", "q"), ("c", "p", "q"), ("d",)], ["a+b+c", "d"]),
        # Nothing is stored of what a task runs the model on itself.
        ([("v2", "v2", "train!"), ("r", "r", "train!")], ["v2", "r"]),
    ],
)
def test_sets_that_share_a_pass_are_one_unit(sets: list[tuple[str, ...]], apart: list[str]) -> None:
    groups: Groups = tuple(group(*one) for one in sets)
    found = ["+".join(one[0].dataset_name for one in unit.groups) for unit in units_of(["m"], groups)]
    assert found == apart


def test_a_task_without_a_meaning_reads_nothing() -> None:
    class Refusing(Reading):
        def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
            raise NotApplicableError("no")

    groups = (Job("t", Refusing(), "a", set_of("a")),), group("b")
    assert len(units_of(["m"], groups)) == 2


# The command line

QUICK = ["--set", "knn.ks=1", "--set", "spectrum.first=1", "--set", "spectrum.last=3"]


@pytest.fixture
def sweep(cli: Cli) -> list[str]:  # noqa: F811
    for name in ("x", "y"):
        pictures(cli.folder / name)
    return [
        "run",
        "--model",
        "pixels",
        "--task",
        "knn,spectrum",
        "--dataset",
        "folder:x,digits,folder:y",
        *QUICK,
        "--limit",
        "12",
    ]


def scores(out: str) -> dict[str, Any]:
    rows = [json.loads(line) for line in out.splitlines()]
    return {row["key"]: row["metrics"] for row in rows}


def test_parts_of_a_run_are_the_run(cli: Cli, sweep: list[str]) -> None:  # noqa: F811
    whole = scores(cli(*sweep, "--json", "--results", "whole")[1])
    parts = [cli(*sweep, "--json", "--part", f"{number}/4") for number in range(1, 5)]
    assert [code for code, _, _ in parts] == [0] * 4
    found = [scores(out) for _, out, _ in parts]
    assert [len(part) for part in found] == [2, 2, 2, 0]
    assert dict(chain.from_iterable(part.items() for part in found)) == whole
    assert "part 4/4 is empty" in parts[3][2]


def test_what_is_stored_moves_no_unit_to_another_part(cli: Cli, sweep: list[str]) -> None:  # noqa: F811
    before = [set(scores(cli(*sweep, "--json", "--part", part)[1])) for part in ("1/2", "2/2")]
    again = [set(scores(cli(*sweep, "--json", "--part", part)[1])) for part in ("1/2", "2/2")]
    assert before == again
    assert not before[0] & before[1]


def test_a_dry_run_prints_its_share(cli: Cli, sweep: list[str], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def seconds(*_: Any) -> float:
        return 0.01

    monkeypatch.setattr("ssleval.features.source.seconds_per_image", seconds)
    told = [cli(*sweep, "--dry-run", "--json", "--part", f"{number}/2")[1] for number in (1, 2)]
    assert [[json.loads(line)["dataset"] for line in out.splitlines()] for out in told] == [
        ["folder:x", "folder:y"],
        ["digits"],
    ]


def test_lines_of_a_suite_are_shared_out(cli: Cli) -> None:  # noqa: F811
    pictures(cli.folder / "x")
    (cli.folder / "s.yaml").write_text(
        "measurements:\n"
        "  - {task: knn, dataset: 'folder:x', settings: {ks: [1]}}\n"
        "  - {task: zeroshot, dataset: 'digits'}\n"
    )
    suite = ["run", "--model", "pixels", "--suite", "s.yaml", "--json", "--limit", "12"]
    (code, out, _), (none, empty, said) = (cli(*suite, "--part", part) for part in ("1/2", "2/2"))
    assert (code, len(scores(out))) == (0, 1)
    # A line without a meaning for the model is said, as in the whole run.
    assert (none, empty, "not applicable: " in said) == (0, "", True)


def test_a_set_that_cannot_be_opened_fails_every_part_even_an_empty_one(cli: Cli) -> None:  # noqa: F811
    pictures(cli.folder / "x")
    run = ["run", "--model", "pixels", "--dataset", "folder:x,folder:gone", *QUICK[:2]]
    for part in ("1/2", "2/2"):
        code, _, err = cli(*run, "--part", part)
        assert (code, "gone" in err) == (2, True)


@pytest.mark.parametrize("text", ["0/3", "4/3", "half"])
def test_a_bad_part_is_one_line(cli: Cli, text: str) -> None:  # noqa: F811
    code, out, err = cli("run", "--model", "pixels", "--part", text)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert err.startswith(f"ssleval: --part {text}: write NUMBER/COUNT, counted from 1")
