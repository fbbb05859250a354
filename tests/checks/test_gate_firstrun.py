import pytest

from ssleval.checks.gate.firstrun import refuse_unrecordable
from ssleval.errors import ConfigError


@pytest.mark.parametrize("baseline", ["./baseline", "./baseline.v2", "runs/main"])
def test_results_are_recorded_in_any_folder(baseline: str) -> None:
    refuse_unrecordable(baseline)


@pytest.mark.parametrize("baseline", ["./baseline.json", "weights/last.pth"])
def test_a_file_is_no_place_for_results(baseline: str) -> None:
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        refuse_unrecordable(baseline)
