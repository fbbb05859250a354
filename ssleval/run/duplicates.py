"""Near-duplicates between two sets of images: descriptors, exact search, and a threshold with its error.

The threshold is an order statistic of known non-copies. Each of n images that have no copy in the set that is
searched gives the similarity of its best match there; a match above the k-th largest of these counts as a
copy. Of other images without a copy that are drawn alike, the share that is above, the false-alarm rate, is
then distributed as Beta(k, n + 1 - k), whatever the model. k is the largest whose mean, k / (n + 1), is at
most the rate that was asked for.

Source:
    Vovk 2012, arXiv:1209.2673, sec. 3 (the distribution); Wilks 1941, Ann. Math. Stat. 12(1).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy.special import betaincinv

from ssleval.errors import ConfigError
from ssleval.heads.knn import nearest_neighbours
from ssleval.heads.ranking import unit
from ssleval.heads.whitening import learn_whitening


@dataclass(frozen=True, slots=True)
class Threshold:
    """A similarity above which a match counts as a copy, and how often that is wrong."""

    value: float
    rate: float
    """Expected share of images without a copy that have a match above."""
    low: float
    """Ends of the interval of that share, 95 %."""
    high: float
    n: int
    """Known non-copies it was chosen on."""

    @property
    def alarms(self) -> str:
        """The rate in percent, with its interval."""
        return f"{100 * self.rate:.2g} % [{100 * self.low:.2g}, {100 * self.high:.2g}]"


def threshold_at(best: Float[np.ndarray, " n"], rate: float) -> Threshold:
    """Return the threshold of a false-alarm ``rate`` from the best matches of n images without a copy.

    Raises:
        ConfigError: no rate, or n is too small to show it.
    """
    count = len(best)
    if not 0 < rate < 1:
        raise ConfigError(f"a false-alarm rate of {rate:g}; it must lie between 0 and 1")
    place = int(rate * (count + 1) + 1e-9)
    if place < 1:
        raise ConfigError(
            f"a false-alarm rate of {rate:g} shows in {int(np.ceil(1 / rate - 1 - 1e-9)):,} images that are "
            f"known to be no copies, here are {count:,}; ask for {1 / (count + 1):.2g} or more"
        )
    value = float(np.sort(best)[-place])
    low, high = (float(betaincinv(place, count + 1 - place, part)) for part in (0.025, 0.975))
    return Threshold(value, place / (count + 1), low, high, count)


def held_out(count: int, most: int) -> Int[np.ndarray, " m"]:
    """Return the rows of searched images that a threshold is chosen on: half, and at most ``most``."""
    return np.sort(np.random.default_rng(0).permutation(count)[: min(most, count // 2)])


def descriptors(
    held: Int[np.ndarray, " m"], searched: Float[np.ndarray, "n d"], *others: Float[np.ndarray, "_ d"]
) -> tuple[list[Float32[np.ndarray, "_ d"]], bool]:
    """Return descriptors as `copy_detection` makes them, and whether they were whitened.

    The whitening is learnt on the images that are ``searched`` without those ``held`` out: what it was learnt
    on lies further apart than what it was not, such as the images that are looked up. Where those are no more
    than the channels, there is none. All descriptors have length 1.
    """
    learnt = np.delete(searched, held, axis=0)
    whitened = len(learnt) > searched.shape[1]
    prepare = learn_whitening(learnt, centred=False) if whitened else np.asarray
    return [unit(prepare(vectors)) for vectors in (searched, *others)], whitened


def best_among(searched: Float32[np.ndarray, "n d"], rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Return the largest similarity of some searched images to another of them."""
    similarity, index = nearest_neighbours(searched, searched[rows], k=2, settled=True)
    # Of images that are alike, another may come before the image itself.
    own = index[:, 0].numpy() == rows
    return np.where(own, similarity[:, 1].numpy(), similarity[:, 0].numpy())


def best_in(
    searched: Float32[np.ndarray, "n d"], queries: Float32[np.ndarray, "m d"]
) -> Float[np.ndarray, " m"]:
    """Return each query's largest similarity to a searched image."""
    return nearest_neighbours(searched, queries, k=1, settled=True)[0][:, 0].numpy()


def matches_above(
    searched: Float32[np.ndarray, "n d"], queries: Float32[np.ndarray, "m d"], threshold: float, most: int
) -> list[tuple[int, int, float]]:
    """Return rows of a query and of an image more similar than ``threshold``, and how much; nearest first.

    Of each query at most the ``most`` nearest.
    """
    similarity, index = nearest_neighbours(searched, queries, k=min(most, len(searched)), settled=True)
    rows, places = np.nonzero(similarity.numpy() > threshold)
    found = similarity.numpy()[rows, places]
    order = np.lexsort((places, rows, -found)).tolist()
    return [(int(rows[at]), int(index[rows[at], places[at]]), float(found[at])) for at in order]
