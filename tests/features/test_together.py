"""Several models fed from one decoded stream: each stores what it stores alone, images are decoded once."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from ssleval.core import FeatureRequest
from ssleval.core.backbone import Features
from ssleval.errors import ContractError, DataError, SslevalError
from ssleval.features import FeatureSource, prepare_together
from ssleval.features import cache as caching
from ssleval.features import extract as extracting
from ssleval.features.shard import Shard
from tests.features.feature_fakes import (
    CARD,
    MEAN,
    PATCHES,
    POOLED,
    Noise,
    Tiny,
    context_of,
    dataset_of,
    request_of,
    split_of,
)
from tests.features.rank_threads import in_ranks

IMAGES, BATCH = 18, 4
OTHER = replace(CARD, name="other", image_size=24)


@dataclass(frozen=True)
class Watched:
    """Remembers which images were decoded."""

    image: Noise = field(default_factory=Noise)
    decoded: Counter[int] = field(default_factory=Counter)

    def __call__(self, index: int) -> Image.Image:
        self.decoded[index] += 1
        return self.image(index)


class Ending(Tiny):
    """Raises an error in its third forward pass over a batch, or always from then on."""

    def __init__(self, error: BaseException | None = None, *, ever: bool = True) -> None:
        super().__init__(seed=7)
        self.error, self.ever, self.count = error, ever, 0

    def __getstate__(self) -> dict[str, object]:
        left_out = {"error", "ever", "count"}
        return {name: value for name, value in super().__getstate__().items() if name not in left_out}

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        # The first question of a source is asked with one image.
        self.count += len(images) > 1
        if self.error is not None and (self.count == 3 or (self.ever and self.count > 3)):
            raise self.error
        return super().extract(images, blocks, norm=norm)


def request(watched: Watched, *readouts: Any) -> FeatureRequest:
    """Images as the card of each model wants them."""
    return request_of(dataset_of(split_of(IMAGES, watched)), *(readouts or (MEAN, PATCHES)), geometry=None)  # pyright: ignore[reportArgumentType]


def stores(cache: Path) -> dict[str, bytes]:
    """Return the arrays, journals and marks of all passes."""
    return {str(path.relative_to(cache)): path.read_bytes() for path in sorted(cache.rglob("*.npy"))}


def alone(
    cache: Path, models: Sequence[Tiny], image: Noise | None = None, **changes: object
) -> dict[str, bytes]:
    """Return what the models store one after another."""
    for model in models:
        source = FeatureSource(model, context_of(cache, **changes))
        source.prepare([request(Watched(image or Noise()))])
    return stores(cache)


def test_models_of_one_geometry_share_what_is_decoded_and_store_what_they_store_alone(tmp_path: Path) -> None:
    models = [Tiny(seed=0), Tiny(seed=1), Tiny(OTHER, seed=2)]
    watched = Watched()
    sources = [FeatureSource(model, context_of(tmp_path / "together")) for model in models]
    one = request(watched)
    prepare_together([(source, [one]) for source in sources])
    assert watched.decoded == dict.fromkeys(range(IMAGES), 1)
    # What one model sees alone is left to it.
    assert [len(source.counts) for source in sources] == [1, 1, 0]
    for model, source in zip(models, sources, strict=True):
        calls = len(model.calls)
        source.prepare([one])
        assert (len(model.calls) > calls) == (model is models[2])
    assert stores(tmp_path / "together") == alone(tmp_path / "alone", models)


def test_time_is_divided_among_the_models_and_counted_once(tmp_path: Path) -> None:
    sources = [FeatureSource(Tiny(seed=seed, delay=0.02 * seed), context_of(tmp_path)) for seed in (0, 1, 2)]
    one = request(Watched())
    began = time.perf_counter()
    prepare_together([(source, [one]) for source in sources])
    passed = time.perf_counter() - began
    counts = [next(iter(source.counts.values())) for source in sources]
    assert [(count.images, count.forwards) for count in counts] == [(IMAGES, 5)] * 3
    assert sum(count.decoded for count in counts) == pytest.approx(IMAGES)
    assert counts[0].waited == pytest.approx(counts[2].waited)
    assert 0.3 <= sum(count.seconds for count in counts) <= passed
    # Five batches of 20 and of 40 ms more than the first model.
    assert counts[1].computed > 0.1
    assert counts[2].computed > 0.2
    assert counts[0].seconds < counts[1].seconds < counts[2].seconds
    said = sources[1].timings(sources[1].passes([one]))
    assert (said["images_extracted"], said["images_reused"]) == (IMAGES, 0)


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), torch.OutOfMemoryError("no memory"), ContractError("other")]
)
def test_an_error_of_one_model_is_its_own(tmp_path: Path, error: Exception) -> None:
    broken, sound = Ending(error), [Tiny(seed=1), Tiny(seed=2)]
    sources = [FeatureSource(model, context_of(tmp_path / "one")) for model in (sound[0], broken, sound[1])]
    one = request(Watched())
    prepare_together([(source, [one]) for source in sources])
    for source in (sources[0], sources[2]):
        source.prepare([one])
    with pytest.raises(SslevalError, match=r"broken|no memory|other"):
        sources[1].prepare([one])
    found = stores(tmp_path / "one")
    expected = alone(tmp_path / "alone", sound)
    assert {name: found[name] for name in expected} == expected


def test_memory_that_was_short_for_several_models_may_do_for_one(tmp_path: Path) -> None:
    models = [Tiny(seed=1), Ending(torch.OutOfMemoryError("no memory"), ever=False)]
    sources = [FeatureSource(model, context_of(tmp_path / "one")) for model in models]
    one = request(Watched())
    prepare_together([(source, [one]) for source in sources])
    sources[1].prepare([one])
    (done,) = sources[1].counts.values()
    assert done.images == IMAGES
    assert stores(tmp_path / "one") == alone(tmp_path / "alone", [Tiny(seed=1), Ending()])


def test_features_that_are_not_finite_end_one_model(tmp_path: Path) -> None:
    models = [Tiny(seed=0, scale=float("inf")), Tiny(seed=1)]
    sources = [FeatureSource(model, context_of(tmp_path)) for model in models]
    one = request(Watched())
    prepare_together([(source, [one]) for source in sources])
    assert not sources[0].counts
    sources[1].prepare([one])
    with pytest.raises(ContractError, match="not finite"):
        sources[0].prepare([one])


@pytest.mark.parametrize("readouts", [(MEAN, PATCHES), (POOLED,)])
def test_a_model_that_is_half_done_goes_on_where_it_was(tmp_path: Path, readouts: tuple[Any, ...]) -> None:
    half = FeatureSource(Ending(ContractError("killed")), context_of(tmp_path / "one"))
    with pytest.raises(ContractError, match="killed"):
        half.prepare([request(Watched())])
    models, watched = [Tiny(seed=1), Ending()], Watched()
    sources = [FeatureSource(model, context_of(tmp_path / "one")) for model in models]
    one = request(watched, *readouts)
    prepare_together([(source, [one]) for source in sources])
    assert watched.decoded == dict.fromkeys(range(IMAGES), 1)
    # Two batches of four were written before; a readout that is new needs all.
    left = IMAGES if POOLED in readouts else IMAGES - 2 * BATCH
    assert [source.counts.popitem()[1].images for source in sources] == [IMAGES, left]
    whole = [FeatureSource(model, context_of(tmp_path / "two")) for model in models]
    for mine, theirs in zip(sources, whole, strict=True):
        table, other = mine.load(one), theirs.load(one)
        assert all(table[name].tobytes() == other[name].tobytes() for name in readouts)


def test_batches_before_an_error_are_written_however_long_that_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = extracting.Consumer._store

    def slow(*arguments: Any) -> None:
        time.sleep(0.05)
        write(*arguments)

    monkeypatch.setattr(extracting.Consumer, "_store", slow)
    with pytest.raises(ContractError, match="killed"):
        FeatureSource(Ending(ContractError("killed")), context_of(tmp_path)).prepare([request(Watched())])
    source = FeatureSource(Ending(), context_of(tmp_path))
    source.prepare([request(Watched())])
    assert [count.images for count in source.counts.values()] == [IMAGES - 2 * BATCH]


def test_a_pass_that_began_with_other_batches_keeps_them(tmp_path: Path) -> None:
    def begin(cache: Path) -> None:
        with pytest.raises(ContractError):
            FeatureSource(Ending(ContractError("killed")), context_of(cache, batch_size=3)).prepare(
                [request(Watched())]
            )

    for name in ("one", "two"):
        begin(tmp_path / name)
    models, watched = [Tiny(seed=1), Tiny(seed=2), Ending()], Watched()
    sources = [FeatureSource(model, context_of(tmp_path / "one")) for model in models]
    prepare_together([(source, [request(watched)]) for source in sources])
    # The last twelve images twice.
    assert watched.decoded == {row: 1 + (row >= 6) for row in range(IMAGES)}
    assert stores(tmp_path / "one") == alone(tmp_path / "two", models)


def test_a_broken_image_ends_all_unless_it_is_left_out(tmp_path: Path) -> None:
    watched, models = Watched(Noise(corrupt=(5,))), [Tiny(seed=1), Tiny(seed=2)]
    one = request(watched)

    def sources(**changes: object) -> list[FeatureSource]:
        return [FeatureSource(model, context_of(tmp_path / "one", **changes)) for model in models]

    strict = sources()
    prepare_together([(source, [one]) for source in strict])
    for source in strict:
        with pytest.raises(DataError, match=r"image_5\.jpg: truncated; --skip-corrupt"):
            source.prepare([one])
    lenient = sources(skip_corrupt=True)
    prepare_together([(source, [one]) for source in lenient])
    assert [source.skipped(source.passes([one])) for source in lenient] == [
        {"noise/train": ["image_5.jpg"]}
    ] * 2
    assert stores(tmp_path / "one") == alone(tmp_path / "two", models, watched.image, skip_corrupt=True)


def test_equal_models_share_one_pass(tmp_path: Path) -> None:
    sources = [FeatureSource(Tiny(seed=seed), context_of(tmp_path)) for seed in (0, 0, 1)]
    one = request(Watched())
    prepare_together([(source, [one]) for source in sources])
    assert [len(source.counts) for source in sources] == [1, 0, 1]


def test_what_is_stored_is_not_decoded_again_but_by_force(tmp_path: Path) -> None:
    watched, models = Watched(), [Tiny(seed=1), Tiny(seed=2)]
    one = request(watched)
    for since, expected in ((0.0, 1), (0.0, 1), (time.time() + 1000, 2)):
        sources = [FeatureSource(model, context_of(tmp_path, since=since)) for model in models]
        prepare_together([(source, [one]) for source in sources])
        assert set(watched.decoded.values()) == {expected}


def test_runs_that_want_the_same_passes_do_not_wait_for_each_other_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = caching.lock

    @contextmanager
    def slow(*arguments: Any) -> Generator[None]:
        with lock(*arguments):
            time.sleep(0.05)
            yield

    monkeypatch.setattr(caching, "lock", slow)
    models, watched = [Tiny(seed=1), Tiny(seed=2)], Watched()
    one = request(watched)

    def run(order: int) -> Callable[[], None]:
        sources = [FeatureSource(model, context_of(tmp_path)) for model in models[::order]]
        return lambda: prepare_together([(source, [one]) for source in sources])

    threads = [threading.Thread(target=run(order), daemon=True) for order in (1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert watched.decoded == dict.fromkeys(range(IMAGES), 1)


def test_ranks_share_the_batches_and_agree_on_errors(tmp_path: Path) -> None:
    """Of five batches the third, which breaks one of the models, is that of the second rank."""
    watched = Watched()
    # Not built by the threads, which share one random generator.
    models = [
        [Tiny(seed=1), Tiny(seed=2), Tiny(OTHER, seed=3), Tiny(seed=4, scale=float("inf"))] for _ in range(2)
    ]

    def work(shard: Shard) -> list[Any]:
        mine = models[shard.rank]
        sources = [FeatureSource(model, context_of(tmp_path / "one")) for model in mine]
        one = request(watched)
        prepare_together([(source, [one]) for source in sources])
        # The first rank takes two batches, the second three.
        calls = [sum(size > 1 for size, _ in model.calls) for model in mine[:2]]
        for source in sources[:3]:
            source.prepare([one])
        with pytest.raises(ContractError, match="not finite"):
            sources[3].prepare([one])
        return [calls, [count.images for source in sources[:2] for count in source.counts.values()]]

    first, second = in_ranks(2, work)
    assert first == [[2, 2], [IMAGES, IMAGES]]
    assert second == [[3, 3], [IMAGES, IMAGES]]
    found, expected = stores(tmp_path / "one"), alone(tmp_path / "two", models[0][:3])
    assert {name: found[name] for name in expected} == expected
