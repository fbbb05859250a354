"""Features depend on the image alone: not on its place, its batch, or where an earlier run was cut off."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ssleval.core import Dataset, DatasetCard, FeatureRequest
from ssleval.features import FeatureSource
from tests.features.feature_fakes import CLS, PATCHES, SQUARE, Tiny, context_of, split_of

READOUTS = (CLS, PATCHES)
IMAGES = 13


def extracted(folder: Path, order: list[int], batch_size: int) -> dict[str, np.ndarray]:
    """Return the features of images, by readout, with a row per image in its own place."""
    split = split_of(IMAGES).subset(np.array(order))
    card = DatasetCard("noise", target="none", lengths={"train": len(split)})
    source = FeatureSource(Tiny(), context_of(folder, batch_size=batch_size))
    table = source.load(FeatureRequest(Dataset(card, lambda _: split), "train", SQUARE, READOUTS))
    place = np.argsort(order)
    return {str(readout): np.array(table[readout])[place] for readout in READOUTS}


@given(order=st.permutations(range(IMAGES)), batch_size=st.integers(1, IMAGES + 3))
def test_order_and_batch_do_not_matter(order: list[int], batch_size: int) -> None:
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        straight = extracted(Path(first), list(range(IMAGES)), 4)
        turned = extracted(Path(second), order, batch_size)
    for name, values in straight.items():
        # Products of other batch sizes add in another order; stored patches are float16.
        np.testing.assert_allclose(turned[name], values, rtol=0, atol=2e-3 if "patches" in name else 2e-6)


@given(data=st.data())
def test_a_store_cut_off_at_any_byte_is_completed_to_the_same_features(data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        order = list(range(IMAGES))
        whole = extracted(folder, order, 4)
        (store,) = folder.glob("features/*")
        files = sorted(path for path in store.glob("*.npy") if path.stat().st_size)
        for path in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True)):
            with path.open("r+b") as file:
                file.truncate(data.draw(st.integers(0, path.stat().st_size)))
        again = extracted(folder, order, 4)
    for readout, values in whole.items():
        np.testing.assert_array_equal(again[readout], values)
