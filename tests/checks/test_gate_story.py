"""What the gate is for, end to end: train, damage, gate, read the report as a CI server does."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from junitparser import Error, Failure, JUnitXml, Skipped, TestCase
from safetensors.torch import load_file

from ssleval.backbones.weights.weightfile import read_card, read_config, write_weights
from tests.cli.test_cli import Cli, cli  # noqa: F401  # pyright: ignore[reportUnusedImport]
from tests.train.tiny_training import SETTINGS

SUITE = """
description: k-NN on small digits
measurements:
  - {task: knn, dataset: digits, margin: 0.03, settings: {ks: [5], resize: 16, crop: 16}}
"""


@dataclass
class Story:
    """A folder with a trained model, and the gate on candidates made from it."""

    cli: Cli

    @property
    def baseline(self) -> Path:
        return self.cli.folder / "run" / "teacher.safetensors"

    def candidate(self, name: str, *, noise: float = 0.0, lost: str = "none") -> Path:
        """Write the trained model with relative noise on all weights, and zeros in those called ``lost``."""
        random = torch.Generator().manual_seed(0)
        tensors = load_file(self.baseline)
        for key, tensor in list(tensors.items()):
            noisy = tensor * (1 + noise * torch.randn(tensor.shape, generator=random))
            tensors[key] = noisy * (lost not in key)
        file = self.cli.folder / name / "teacher.safetensors"
        file.parent.mkdir()
        write_weights(file, tensors, read_card(self.baseline), read_config(self.baseline))
        return file

    def gate(self, candidate: Path, *more: str) -> tuple[int, TestCase]:
        code, _, err = self.cli(
            *("gate", "--suite", "suite.yaml", "--baseline", self.baseline, "--candidate", candidate),
            *("--out", "gate", "--quiet", *more),
        )
        report = self.cli.folder / "gate" / "gate.xml"
        assert report.exists(), err
        parsed = JUnitXml.fromfile(str(report))
        (suite,) = list(parsed)
        (case,) = list(suite)
        assert (parsed.tests, suite.name, case.classname) == (1, "suite.yaml", "ssleval.knn")
        return code, case


@pytest.fixture
def story(cli: Cli) -> Story:  # noqa: F811
    (cli.folder / "suite.yaml").write_text(SUITE)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    code, _, err = cli("train", "--dataset", "digits", "--limit", "32", "--out", "run", "--quiet", *settings)
    assert code == 0, err
    return Story(cli)


def test_a_broken_checkpoint_fails_an_equal_one_passes_and_few_images_leave_it_open(story: Story) -> None:
    equal, broken = story.candidate("equal", noise=1e-5), story.candidate("broken", noise=10.0)
    code, case = story.gate(broken)
    assert code == 1
    (found,) = case.result
    assert isinstance(found, Failure)
    assert "worse by more than the margin" in f"{found.message} {found.text}"
    code, case = story.gate(equal)
    assert (code, case.result) == (0, [])
    code, case = story.gate(equal, "--limit", "40")
    assert code == 3
    (found,) = case.result
    assert isinstance(found, Skipped)
    assert "takes about" in f"{found.message} {found.text}"


def test_a_candidate_that_sees_nothing_is_refused(story: Story) -> None:
    blind = story.candidate("blind", lost="patch_embed")
    code, _, err = story.cli(
        *("gate", "--suite", "suite.yaml", "--baseline", story.baseline, "--candidate", blind),
        *("--out", "gate", "--quiet"),
    )
    assert code == 2
    assert "its weights are constant" in err
    parsed = JUnitXml.fromfile(str(story.cli.folder / "gate" / "gate.xml"))
    ((case,),) = list(parsed)
    (found,) = case.result
    assert isinstance(found, Error)
    assert (parsed.errors, "its weights are constant" in str(found.message)) == (1, True)
    assert "patch_embed.proj.weight" in err
