import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from ssleval.core import Context, Dataset, FeatureRequest, Metric, Samples
from ssleval.core.task import Inputs, Task, tasks
from ssleval.errors import ConfigError, UnknownNameError
from ssleval.run.measure import evaluate
from ssleval.run.settings import build_task, parse_settings


@tasks.register("every-type")
@dataclass(frozen=True)
class EveryType(Task):
    """A task with a field of every readable type."""

    number: int = 1
    ratio: float = 0.5
    word: str = "a"
    switch: bool = False
    several: tuple[int, ...] = (1, 2)
    choice: Literal["left", "right"] = "left"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return ()

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        return ()

    def evaluate(self, inputs: Inputs) -> Samples:
        return Samples([], {})


def test_texts_become_values_of_the_field_type() -> None:
    texts = parse_settings(
        [
            "every-type.number=3",
            "every-type.ratio=1e-2",
            "every-type.word=b=c",
            "every-type.switch=True",
            "every-type.several=5, 6,7",
            "every-type.choice=right",
        ]
    )
    assert build_task("every-type", texts["every-type"]) == EveryType(
        3, 0.01, "b=c", True, (5, 6, 7), "right"
    )


def test_values_of_python_and_yaml_pass_through() -> None:
    assert build_task("every-type", {"several": [3], "number": 4}) == EveryType(4, several=(3,))


@pytest.mark.parametrize("setting", ["knn", "knn.k", "k=1", ".k=1", "knn.=1"])
def test_another_form_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"expected TASK\.FIELD=VALUE"):
        parse_settings([setting])


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("number", "1.5", "expected a whole number"),
        ("ratio", "x", "expected a number"),
        ("switch", "maybe", "expected true or false"),
        ("several", "1,x", "expected a whole number"),
        ("choice", "lefd", "did you mean left"),
    ],
)
def test_a_value_the_field_cannot_take_is_named(field: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_task("every-type", {field: text})


def test_an_unknown_field_or_task_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="every-type has no setting 'nunber'; did you mean number"):
        build_task("every-type", {"nunber": "1"})
    with pytest.raises(UnknownNameError, match="did you mean"):
        build_task("every-tipe")


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": -1}, {"num_workers": -1}, {"seed": -1}, {"seed": 2**32}],
    ids=str,
)
def test_a_context_refuses_what_it_cannot_mean(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"context\.{next(iter(wrong))}="):
        Context(**wrong)


def test_a_precision_that_does_not_exist_is_refused_where_no_annotation_is_checked() -> None:
    code = "from ssleval.core import Context; Context(precision='bf61')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "context.precision=bf61: did you mean bf16" in done.stderr


def test_settings_of_a_task_that_was_not_asked_for_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"settings of 'Knn'.*did you mean knn"):
        evaluate("pixels", "knn", dataset="digits", settings={"Knn": {"ks": (5,)}})
    with pytest.raises(ConfigError, match=r"knn\.resize=-1: expected a whole number >= 1"):
        evaluate("pixels", "knn", dataset="digits", settings={"knn": {"resize": -1}})
