"""The dataset of a stored result, opened again."""

from dataclasses import replace

from ssleval.core import Dataset, DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import DataError
from ssleval.results import Result


def scored_set(result: Result, options: DatasetOptions, otherwise: str) -> tuple[Dataset, str]:
    """Return the dataset of a result as it was scored, and the name of the scored split.

    Raises:
        DataError: the dataset that opens is another; ``otherwise`` says what to do without it.
    """
    split = str(result.data["test_split"])
    options = replace(options, exif=bool(result.data.get("exif")))
    dataset = open_dataset(result.dataset, options).limited(result.settings.get("limit"))
    scored = result.data["fingerprints"].get(f"{dataset.card.name}/{split}")
    if split not in dataset.card.lengths or scored != dataset.split(split).fingerprint:
        raise DataError(
            f"{result.dataset}: the {split} split opened here is not the one that was scored; give its "
            f"--data-root, or {otherwise}"
        )
    return dataset, split
