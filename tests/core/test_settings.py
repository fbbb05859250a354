from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from ssleval.core.settings import (
    Count,
    Counts,
    Fraction,
    OpenFraction,
    Pair,
    Positive,
    Positives,
    build,
    check,
    updated,
)
from ssleval.errors import ConfigError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Fields:
    k: Count = 20
    temperature: Positive = 0.07
    held_out: OpenFraction = 0.1
    flip: Fraction = 0.5
    ks: Counts = (20, 10)
    scale: Pair = (0.5, 1.0)
    rates: Positives = (0.1,)
    kind: Literal["linear", "cosine"] = "linear"
    folder: Path = Path("data")
    quick: bool = False
    limit: int | None = None
    names: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        check(self, "fields")


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"k": "3"}, {"k": 3}),
        ({"temperature": "1e-3"}, {"temperature": 1e-3}),
        ({"temperature": 2}, {"temperature": 2.0}),
        ({"ks": "5, 1"}, {"ks": (5, 1)}),
        ({"ks": [7]}, {"ks": (7,)}),
        ({"ks": ["7", "8"]}, {"ks": (7, 8)}),
        ({"rates": yaml.safe_load("[1e-1, 2.0, 3]")}, {"rates": (0.1, 2.0, 3.0)}),
        ({"quick": "true"}, {"quick": True}),
        ({"folder": "a/b"}, {"folder": Path("a/b")}),
        ({"limit": None}, {"limit": None}),
        ({"names": {"a": "b"}}, {"names": {"a": "b"}}),
    ],
)
def test_values_are_read_by_the_type_of_their_field(stated: dict[str, Any], expected: dict[str, Any]) -> None:
    for made in (build(Fields, stated, "fields"), updated(Fields(), stated, "fields")):
        assert {name: getattr(made, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"k": 0}, "fields.k=0: expected a whole number >= 1"),
        ({"k": 1.5}, "expected a whole number"),
        ({"k": True}, "fields.k=True: expected a whole number"),
        ({"temperature": True}, "fields.temperature=True: expected a number"),
        ({"temperature": -0.05}, "fields.temperature=-0.05: expected a number > 0"),
        ({"temperature": "nan"}, "fields.temperature=nan"),
        ({"temperature": float("inf")}, "expected finite numbers"),
        ({"held_out": 1}, "expected a number < 1"),
        ({"flip": 1.1}, "expected a number <= 1"),
        ({"ks": ""}, "expected a list of length >= 1"),
        ({"ks": "1,1"}, "fields.ks=1,1: expected different entries"),
        ({"ks": "1,x"}, "fields.ks=1,x: expected a whole number"),
        ({"ks": [1, 0]}, "expected a whole number >= 1"),
        ({"rates": ["1e-1", "x", 2.0]}, "fields.rates=1e-1,x,2.0: expected a number"),
        ({"rates": ["1", True]}, "fields.rates=1,True: expected a number"),
        ({"rates": ["-1e-1", 2.0]}, "expected a number > 0"),
        ({"scale": "1"}, "expected a list of length"),
        ({"kind": "cosin"}, "fields.kind=cosin: did you mean cosine"),
        ({"quick": "maybe"}, "expected true or false"),
        ({"folder": 3}, "fields.folder=3: expected Path"),
    ],
)
def test_other_values_are_refused_in_one_line_however_they_arrive(
    stated: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        build(Fields, stated, "fields")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    if not isinstance(next(iter(stated.values())), str):
        with pytest.raises(ConfigError, match=r"fields\."):
            Fields(**stated)


def test_an_unknown_field_is_met_with_the_nearest_name() -> None:
    with pytest.raises(
        UnknownNameError, match="fields has no setting 'temprature'; did you mean temperature"
    ):
        build(Fields, {"temprature": 1}, "fields")
