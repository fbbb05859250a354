"""What stands beside a score."""

from dataclasses import replace
from typing import Any

import pytest

from ssleval.results.record import Result, Score
from ssleval.results.remarks import mark, remarks

SCORE = Score(0.75, (0.7, 0.8), 100, note="from 5 items")
RESULT = Result("net", "knn", "scenes", "0" * 64, {"top1": SCORE}, {}, {}, {"name": "scenes"}, "", {})


@pytest.mark.parametrize(
    ("name", "seeds", "marked"),
    [
        ("scenes", ["scenes"], True),
        ("scenes:mask", ["scenes"], True),
        ("torchvision:Food101", ["food101"], True),
        ("cars", ["food101"], False),
        ("folder:food101", ["food101"], False),
        ("list:1percent.txt@imagenet1k", ["imagenet1k"], True),
        ("list:a@b.txt@vtab:caltech101", ["caltech101"], True),
        ("vtab:caltech101", ["caltech101"], True),
        ("vtab:data/vtab-1k/oxford_iiit_pet/", ["pets"], True),
        ("vtab:oxford_flowers102", ["flowers102"], True),
        ("vtab:svhn", ["pets"], False),
        ("nyuv2_normals", ["nyuv2"], True),
        ("voc2012_detection", ["voc2012"], True),
        ("voc2012_instances", ["voc2012"], True),
        ("voc2012_aug", ["voc2012_aug"], True),
        ("voc2007", ["voc2012"], False),
        ("coco2017", ["coco"], True),
        ("coco2017:captions", ["coco"], True),
        ("torchvision:StanfordCars", ["cars"], True),
        ("torchvision:OxfordIIITPet", ["pets"], True),
        ("torchvision:FGVCAircraft", ["aircraft"], True),
        ("scenes", [], False),
        ("scenes", None, False),
    ],
)
def test_scores_on_data_that_the_model_knew_are_marked(name: str, seeds: Any, marked: bool) -> None:
    result = replace(RESULT, data={"name": name}, backbone={"seeded_by": seeds})
    assert mark(result) == ("†" if marked else "")
    assert ("pre-training data holds this set" in remarks(result, "top1")) is marked


def test_the_own_note_and_the_score_without_leaks_stand_there_too() -> None:
    leaks = {
        "dropped": 4,
        "metrics": {"top1": {"value": 0.5, "ci95": [0.4, 0.6], "n": 96, "unit": "fraction"}},
    }
    assert remarks(replace(RESULT, leaks=leaks), "top1") == "from 5 items; 50.0 [40.0, 60.0] without 4 leaked"
    assert remarks(RESULT, "top1") == "from 5 items"
