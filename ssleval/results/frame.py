"""All results of a folder as a table for pandas. Imports no torch."""

from pathlib import Path
from typing import TYPE_CHECKING

from ssleval.results.record import read_all

if TYPE_CHECKING:
    import pandas as pd


def read_results(folder: Path | str = "results") -> "pd.DataFrame":
    """Return one row for each result below ``folder``, as `Result.to_row` gives it.

    Rows that agree in ``board`` may be compared. Columns of settings, such as ``seed``, ``precision``,
    ``pixels``, ``exif``, ``card.mean`` and ``knn.k``, tell rows of one model apart; what a result does not
    have is missing (NaN or None).

    Raises:
        DataError: there is no such folder, or a file in it cannot be read.
    """
    import pandas as pd

    return pd.DataFrame([result.to_row() for result in read_all(Path(folder))])
