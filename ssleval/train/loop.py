"""The training loop: views, targets, losses, updates, log, checkpoints, evaluation."""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssleval.core import BackboneCard, DatasetOptions
from ssleval.core.devices import place
from ssleval.core.files import write_text_atomically
from ssleval.core.heap import freed_memory_kept
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, DivergedError
from ssleval.features import current_shard, local_device, watching_peers
from ssleval.features.progress import progress
from ssleval.train.ahead import made_ahead
from ssleval.train.config import TrainConfig
from ssleval.train.export import teacher_card, write_teacher
from ssleval.train.images import Images, epoch_order
from ssleval.train.learner import Learner
from ssleval.train.log import Log
from ssleval.train.masking import draw_masks, random_masks
from ssleval.train.networks import Network
from ssleval.train.processes import sum_over_processes
from ssleval.train.schedules import gram_weight, rates
from ssleval.train.state import Checkpoints, changes, only_training, read_ids, read_state, writing
from ssleval.train.views import Views, make_views
from ssleval.train.watch import CollapseWatch, evaluate_teacher, evaluator_of_teachers

_IMAGES = "images.json"
"""The split and the id of every image that a run began with."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The outcome of a call of `train`."""

    step: int
    """Steps done in total."""
    finished: bool
    """False if a signal stopped the run; the same call with ``resume`` continues it."""
    teacher: Path
    """The model file, as `ssleval.load` takes it."""


def train(
    config: TrainConfig,
    dataset: str,
    out: Path | str,
    *,
    splits: Sequence[str] = ("train",),
    resume: bool = False,
    device: str = "auto",
    limit: int | None = None,
    skip_corrupt: bool = False,
    options: DatasetOptions | None = None,
    show: bool = True,
    note: Callable[[str], None] | None = None,
) -> Trained:
    """Train a backbone on the images of a dataset, without its labels.

    Under ``torchrun``, every process trains on its share of each batch.

    Args:
        config: all settings; see `read_config`.
        dataset: a registered name or ``source:location``.
        out: folder for ``teacher.safetensors``, ``log.jsonl``, ``config.json`` and ``checkpoints/``.
        splits: splits of the dataset to train on.
        resume: continue from the last checkpoint in ``out``, if there is one. Learning rate, precision and
            number of processes may differ, and images be gone; notes and log say how.
        device: the device to train on; ``auto``: an accelerator, else the CPU.
        limit: use only this many images of every split.
        skip_corrupt: train on the next image in place of one that cannot be decoded, and count these.
        options: how to open the dataset.
        show: draw a progress bar if stderr is a terminal, else write a line a minute.
        note: receives messages for the user.

    Raises:
        ConfigError: settings are invalid, ``out`` holds another run, or another training writes into it.
        DataError: the disk is full; the checkpoint from before is kept.
        DivergedError: a loss is not finite; the checkpoint from before is kept.
    """
    options, shard = options or DatasetOptions(), current_shard()
    config, scaled = config.fitted()
    with shard.agreed("data"):
        device = local_device(device)
        opened = open_dataset(dataset, options)
        config.check_batch(shard.world)
        kept = opened.limited(limit)
        images = Images(kept, splits, config.run.memory_gb, skip_corrupt=skip_corrupt)
        shard.same("training", {**config.settings(), **images.fingerprints})
    on, count = config.run.evaluate_on or dataset, config.run.evaluate_limit
    evaluator = cache(partial(evaluator_of_teachers, on, options, count))
    if config.run.evaluate_every:
        # At once: hours later would be late to hear of a name that is wrong.
        with shard.agreed(f"evaluation on {on}"):
            evaluator()
    scores_of = partial(evaluate_teacher, evaluator)
    data = f"{dataset} ({', '.join(splits)})"
    run = _Run(config, images, device, Path(out), data, scores_of, note or _silent)
    try:
        with _only_training(run), watching_peers():
            for line in (place(device), *scaled):
                if line:
                    run.note(line)
            return run.train(resume=resume, show=show)
    except DivergedError as error:
        # The loss is a mean over all processes.
        shard.met_by_all(error)
        raise


@dataclass
class _Run:
    config: TrainConfig
    images: Images
    device: str
    out: Path
    data: str
    """Name of the images, for people."""
    scores_of: Callable[[Network, BackboneCard], Mapping[str, Any]]
    note: Callable[[str], None]

    def __post_init__(self) -> None:
        self.shard = current_shard()
        self.note = self.note if self.shard.leads else _silent
        # Refuses too few images.
        epoch_order(0, 0, len(self.images), self.config.run.batch_size)
        share = self.config.run.batch_size // self.shard.world
        self.rows = slice(self.shard.rank * share, (self.shard.rank + 1) * share)
        """This process's share of each batch."""
        self.checkpoints = Checkpoints(self.out / "checkpoints")
        resumed = self.checkpoints.last.exists()
        self.learner = Learner(self.config, _current_device(self.device), resumed=resumed)
        self.teacher = self.out / "teacher.safetensors"
        self.collapse = CollapseWatch(self.config.head.prototypes)
        self.skipped = self.gone = 0
        self.saved = time.monotonic()

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return len(self.images) // self.config.run.batch_size

    def train(self, *, resume: bool, show: bool) -> Trained:
        """Train from the step in ``out`` to the end, or until a signal."""
        config, batch = self.config, self.config.run.batch_size
        with self.shard.agreed("checkpoint"):
            start, changed = self._start(resume=resume)
            self.shard.same(str(self.out), {"step": start})
            fp16 = config.run.precision == "fp16"
            log = Log(self.out, start=start, leads=self.shard.leads, note=self.note, skips_steps=fp16)
            self._record_changes(changed, start, log)
        steps = config.run.epochs * self.per_epoch
        if start and start % self.per_epoch == 0:
            # The run may have been killed between this checkpoint and what follows it.
            self._save(start, log, written=True)
        label = f"training, {config.run.epochs} epochs"
        with (
            freed_memory_kept(),
            _signals() as caught,
            progress(
                label,
                steps * batch,
                start * batch,
                show=show and self.shard.leads,
                detail=partial(log.detail, short=sys.stderr.isatty()),
                interval=60.0,
            ) as advance,
        ):
            clock, timed, done = time.perf_counter(), start, start
            for step, views in zip(range(start, steps), self._views_from(start, steps), strict=True):
                _seed(config.run.seed, step, self.shard.rank)
                now = rates(config, step, self.per_epoch)
                watched = (step + 1) % config.run.log_every == 0
                terms = self.learner.step(views, self._masks(step), now, watched=watched)
                done = step + 1
                epoch, ends = done // self.per_epoch, done % self.per_epoch == 0
                log.record(step, step // self.per_epoch, terms, now)
                advance(batch)
                stopped, due = self._agreed_to_stop_or_save(done, bool(caught))
                if watched or ends or stopped or due:
                    newest = log.flush((done - timed) * batch / (time.perf_counter() - clock))
                    clock, timed = time.perf_counter(), done
                    self._report(step, epoch, newest, log)
                if ends or stopped or due:
                    self._save(done, log if ends else None)
                    clock, self.saved = time.perf_counter(), time.monotonic()
                if stopped:
                    break
        return Trained(done, done == steps, self.teacher)

    def _agreed_to_stop_or_save(self, done: int, caught: bool) -> tuple[bool, bool]:
        """Return whether to stop, and whether a checkpoint is due, after the same step in all processes."""
        run, minutes = self.config.run, (time.monotonic() - self.saved) / 60
        # One clock decides for all.
        late = self.shard.leads and 0 < run.save_minutes <= minutes
        stop, save = sum_over_processes(torch.tensor([float(caught), float(late)])).tolist()
        return stop > 0, save > 0 or bool(run.save_steps and done % run.save_steps == 0)

    def _report(self, step: int, epoch: int, newest: Mapping[str, Any], log: Log) -> None:
        """Say that the run has collapsed, and which images were skipped since the last time."""
        if warning := self.collapse.warning(newest, epoch):
            self.note(f"step {step}: {warning}")
        skipped = dict(list(self.images.skipped.items())[self.skipped :])
        if skipped:
            self.skipped += len(skipped)
            log.event(step, step // self.per_epoch, "skipped", skipped)
            name, reason = next(iter(skipped.items()))
            self.note(f"step {step}: skipped {self.skipped} of {len(self.images)} images; {name}: {reason}")

    def _record_changes(self, changed: Mapping[str, list[Any]], start: int, log: Log) -> None:
        if not changed:
            return
        log.event(start, start // self.per_epoch, "resumed", changed)
        told = ", ".join(f"{name} {before} -> {now}" for name, (before, now) in changed.items())
        self.note(f"resumed at step {start} with {told}")

    def _start(self, *, resume: bool) -> tuple[int, dict[str, list[Any]]]:
        """Restore the last checkpoint, if there is one; return the first step to do, and what has changed."""
        last = self.checkpoints.last
        if last.exists() and not resume:
            raise ConfigError(
                f"{self.out} holds a run already; --resume continues it, or choose another --out"
            )
        if self.shard.leads:
            self.checkpoints.remove_drafts()
        if last.exists():
            state = read_state(last)
            changed = changes(state["config"], self.config, last)
            changed |= self._changed_images(state, last)
            if (before := state.get("processes", self.shard.world)) != self.shard.world:
                changed["processes"] = [before, self.shard.world]
            self.learner.restore(state)
            if changed:
                self._write_settings()
            return int(state["step"]), changed
        self._write_settings()
        if self.shard.leads:
            with writing(self.out / _IMAGES):
                write_text_atomically(self.out / _IMAGES, json.dumps(self.images.ids()) + "\n")
        return 0, {}

    def _write_settings(self) -> None:
        if self.shard.leads:
            settings = json.dumps({**self.config.to_dict(), "data": self.data}, indent=1)
            with writing(self.out / "config.json"):
                write_text_atomically(self.out / "config.json", settings + "\n")

    def _changed_images(self, state: Mapping[str, Any], last: Path) -> dict[str, list[Any]]:
        """Number the images as the run began; return how many there were and are, if other than before."""
        present, began = self.images.ids(), read_ids(self.out / _IMAGES)
        if began is not None and began != present:
            self.gone = self.images.stand_for(began)
        # The order matters too: it decides which image is which row.
        if [*state["images"].items()] == [*self.images.fingerprints.items()]:
            return {}
        if self.gone != (before := state.get("gone", 0)):
            return {"images": [len(self.images) - before, len(present)]}
        raise ConfigError(
            f"{last}: made from other images than {self.data}, or in another order; resume with the same data"
        )

    def _save(self, step: int, log: Log | None, *, written: bool = False) -> None:
        """Write the model and the checkpoint, unless they are ``written``; after an epoch, pass ``log``."""
        state = self.learner.state(keep=self.shard.leads)
        with self.shard.agreed(f"step {step}"):
            if self.shard.leads:
                self._write(state, step, log, written=written)

    def _write(self, state: dict[str, Any], step: int, log: Log | None, *, written: bool) -> None:
        teacher = self.learner.full_teacher(state)
        if not written:
            # The model first: a run killed before the checkpoint repeats the step and writes both.
            with writing(self.teacher):
                write_teacher(self.teacher, teacher, self._card(teacher, step))
            place = {"step": step, "epoch": step // self.per_epoch, "config": self.config.to_dict()}
            place |= {"processes": self.shard.world, "gone": self.gone}
            self.checkpoints.save({**state, **place, "images": self.images.fingerprints})
        if log is not None:
            self._follow_up(step, teacher, log)

    def _follow_up(self, step: int, teacher: Network, log: Log) -> None:
        """After an epoch, keep its checkpoint and evaluate its teacher, where due and not yet done."""
        run, epoch = self.config.run, step // self.per_epoch
        if run.checkpoint_every and epoch % run.checkpoint_every == 0:
            self.checkpoints.keep(f"epoch_{epoch:04d}.pt")
        if run.evaluate_every and epoch % run.evaluate_every == 0:
            if step - 1 not in log.evaluated():
                teacher, card = teacher.to(self.learner.device), self._card(teacher, step)
                log.evaluation(step - 1, epoch - 1, self.scores_of(teacher, card))
            evaluated = log.evaluated()
            # Of equal scores, the earliest is the best.
            if max(evaluated, key=evaluated.__getitem__) == step - 1:
                self.checkpoints.keep("best.pt")

    def _card(self, teacher: Network, step: int) -> BackboneCard:
        return teacher_card(teacher, self.config, self.data, (step - 1) // self.per_epoch)

    def _orders(self, start: int) -> Iterator[np.ndarray]:
        """Yield the rows of this process for every step from ``start``."""
        run = self.config.run
        for epoch in range(start // self.per_epoch, run.epochs):
            order = epoch_order(run.seed, epoch, len(self.images), run.batch_size)
            skipped = start % self.per_epoch if epoch == start // self.per_epoch else 0
            yield from order[skipped:, self.rows]

    def _views_from(self, start: int, steps: int) -> Iterator[Views]:
        numbered = zip(range(start, steps), self.images.batches(self._orders(start)), strict=True)
        makers = (partial(self._views, images, step) for step, images in numbered)
        return made_ahead(makers, self.learner.device)

    def _views(self, images: Sequence[np.ndarray], step: int) -> Views:
        epoch = step // self.per_epoch
        gram = gram_weight(self.config.gram, step, self.per_epoch) > 0
        return make_views(
            images,
            self.config.views_at(epoch),
            seed=self.config.run.seed,
            step=step,
            first=self.rows.start,
            total=self.config.run.batch_size,
            device=self.learner.device,
            global_crops=self.config.global_crops,
            undistorted=self.config.gram_size_at(epoch) if gram else 0,
        )

    def _masks(self, step: int) -> Tensor | None:
        """Return which patches of this process's global crops enter the loss, one row per crop."""
        loss, batch, crops = self.config.loss, self.config.run.batch_size, self.config.global_crops
        mae = self.config.mae if loss.objective == "mae" else None
        if loss.ibot == 0 and mae is None:
            return None
        side = self.config.views_at(step // self.per_epoch).global_size
        grid = side // self.config.model.patch_size
        random = np.random.default_rng([self.config.run.seed, step, 1 << 20])
        if mae is not None:
            masks = random_masks(random, batch, grid**2, mae.mask_ratio)
        elif loss.distill:
            masks = np.ones((2 * batch, grid**2), bool)
        else:
            masks = draw_masks(random, 2 * batch, grid, loss.mask_probability, loss.mask_ratio)
        mine = masks.reshape(crops, batch, -1)[:, self.rows].reshape(-1, grid**2)
        return torch.from_numpy(mine).to(self.learner.device)


@contextmanager
def _only_training(run: _Run) -> Generator[None]:
    """Refuse, in all processes of a training, to write where another training does."""
    with ExitStack() as held:
        with run.shard.agreed(f"training into {run.out}"):
            if run.shard.leads:
                held.enter_context(only_training(run.out, run.note))
        yield


def _current_device(name: str) -> torch.device:
    """Return a device; a GPU with a number becomes the current one, which NCCL uses."""
    device = torch.device(name)
    if name.startswith("cuda:"):
        torch.cuda.set_device(device)
    return device


def _silent(text: str) -> None:
    del text


def _seed(seed: int, step: int, rank: int) -> None:
    # Reseeded at every step, so that stochastic depth depends only on the seed, the step and the rank.
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))


@contextmanager
def _signals() -> Generator[list[int]]:
    """Collect SIGTERM and SIGINT in a list instead of dying; outside the main thread, leave them alone."""
    caught: list[int] = []

    def collect(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)

    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, collect) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
