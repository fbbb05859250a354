"""The training loop, in the open: views, teacher, student, losses, step, average, log, checkpoint."""

import json
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor, distributed

from ssleval.core import BackboneCard, Dataset, DatasetOptions
from ssleval.core.heap import freed_memory_kept
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError
from ssleval.features import current_shard, local_device
from ssleval.features.progress import progress
from ssleval.train.config import TrainConfig
from ssleval.train.export import teacher_card, write_teacher
from ssleval.train.images import Images, epoch_order
from ssleval.train.learner import Learner
from ssleval.train.log import Log
from ssleval.train.masking import draw_masks
from ssleval.train.networks import Network
from ssleval.train.schedules import rates
from ssleval.train.state import Checkpoints, check_same, read_state, remove_unfinished
from ssleval.train.views import make_views
from ssleval.train.watch import collapsed, evaluate_teacher


@dataclass(frozen=True, slots=True)
class Trained:
    """What a call of `train` came to."""

    step: int
    """Steps done in all."""
    finished: bool
    """False where a signal stopped it; the same call with ``resume`` goes on."""
    teacher: Path
    """The model, as `ssleval.load` takes it."""


def train(
    config: TrainConfig,
    dataset: str,
    out: Path | str,
    *,
    splits: Sequence[str] = ("train",),
    resume: bool = False,
    device: str = "cpu",
    limit: int | None = None,
    options: DatasetOptions | None = None,
    show: bool = True,
    note: Callable[[str], None] | None = None,
) -> Trained:
    """Train a backbone on the images of a dataset, without its labels.

    Under ``torchrun`` every process takes its share of each batch.

    Args:
        config: every setting; see `read_config`.
        dataset: a registered name or ``source:location``.
        out: folder for ``teacher.safetensors``, ``log.jsonl``, ``config.json`` and ``checkpoints/``.
        splits: whose images are used.
        resume: go on from the last checkpoint in ``out``, where there is one.
        device: where to train.
        limit: keep this many images of every split.
        options: where data lies.
        show: draw a progress bar where stderr is a terminal.
        note: is told what a user should know while it runs.

    Raises:
        ConfigError: settings that no run could honour, or ``out`` holds another run.
        DivergedError: a loss is not finite; the checkpoint from before is kept.
    """
    options = options or DatasetOptions()
    opened = open_dataset(dataset, options)
    opened = opened if limit is None else opened.limited(limit)
    run = _Run(config, opened, dataset, Path(out), splits, device, options, note or _silent)
    return run.go(resume=resume, show=show)


class _Run:
    """The state of a run; `go` is the loop."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        dataset_name: str,
        out: Path,
        splits: Sequence[str],
        device: str,
        options: DatasetOptions,
        note: Callable[[str], None],
    ) -> None:
        self.shard = current_shard()
        config.check_share(self.shard.world)
        self.config, self.out, self.options = config, out, options
        self.note = note if self.shard.leads else _silent
        self.data = f"{dataset_name} ({', '.join(splits)})"
        self.evaluated_on = config.run.evaluate_on or dataset_name
        self.images = Images(dataset, splits, config.run.memory_gb)
        self.per_epoch = len(epoch_order(0, 0, len(self.images), config.run.batch_size))
        self.learner = Learner(config, _chosen(local_device(device)))
        self.checkpoints = Checkpoints(out / "checkpoints")

    def go(self, *, resume: bool, show: bool) -> Trained:
        """Train from where the folder stands to the end, or to a signal."""
        config, batch = self.config, self.config.run.batch_size
        start = self._start(resume=resume)
        steps = config.run.epochs * self.per_epoch
        log = Log(self.out, start=start, leads=self.shard.leads, note=self.note)
        if start and start % self.per_epoch == 0:
            # A run may have been killed between its checkpoint and what follows one.
            state = self.learner.state(keep=self.shard.leads)
            if self.shard.leads:
                self._follow_up(start, self.learner.whole_teacher(state), log)
            self.shard.barrier()
        label = f"training, {config.run.epochs} epochs"
        with (
            freed_memory_kept(),
            _signals() as caught,
            progress(label, steps * batch, start * batch, show=show) as advance,
        ):
            clock, timed = time.perf_counter(), start
            for step, images in zip(
                range(start, steps), self.images.batches(self._orders(start)), strict=True
            ):
                _seed(config.run.seed, step, self.shard.rank)
                views = make_views(
                    images,
                    config.views_at(step // self.per_epoch),
                    seed=config.run.seed,
                    step=step,
                    first=self.shard.rank * len(images),
                    total=batch,
                    device=self.learner.device,
                )
                now = rates(config, step, self.per_epoch)
                watched = (step + 1) % config.run.log_every == 0
                terms = self.learner.step(views, self._masks(step), now, watched=watched)
                epoch, ends = (step + 1) // self.per_epoch, (step + 1) % self.per_epoch == 0
                log.record(step, step // self.per_epoch, terms, now)
                advance(batch)
                stopped = self._agreed(bool(caught))
                if watched or ends or stopped:
                    speed = (step + 1 - timed) * batch / (time.perf_counter() - clock)
                    newest = log.flush(speed)
                    clock, timed = time.perf_counter(), step + 1
                    if epoch >= 1 and (warning := collapsed(newest, config.head.prototypes)):
                        self.note(f"step {step}: {warning}")
                if ends or stopped:
                    self._keep(step + 1, log if ends else None)
                    clock = time.perf_counter()
                if stopped:
                    return Trained(step + 1, step + 1 == steps, self.teacher)
        return Trained(steps, finished=True, teacher=self.teacher)

    @property
    def teacher(self) -> Path:
        """Where the model goes."""
        return self.out / "teacher.safetensors"

    def _start(self, *, resume: bool) -> int:
        """Return the first step to do, everything restored."""
        last = self.checkpoints.last
        if last.exists() and not resume:
            raise ConfigError(
                f"{self.out} holds a run already; --resume goes on with it, or choose another --out"
            )
        if self.shard.leads:
            remove_unfinished(self.out)
            remove_unfinished(self.checkpoints.folder)
        if last.exists():
            state = read_state(last)
            check_same(state["config"], self.config, last)
            # In order: it decides which image is which row.
            if [*state["images"].items()] != [*self.images.fingerprints.items()]:
                raise ConfigError(
                    f"{last}: made from other images than {self.data}, or in another order; resume with the "
                    "same data"
                )
            self.learner.restore(state)
            return int(state["step"])
        if self.shard.leads:
            self.out.mkdir(parents=True, exist_ok=True)
            settings = json.dumps({**self.config.to_dict(), "data": self.data}, indent=1)
            (self.out / "config.json").write_text(settings + "\n", encoding="utf-8")
        return 0

    def _keep(self, step: int, log: Log | None) -> None:
        """Write the model and the checkpoint; ``log`` is given where an epoch ends, for what is due then."""
        state = self.learner.state(keep=self.shard.leads)
        if self.shard.leads:
            # The model first: a run killed between the two does the step again, and writes both.
            teacher = self.learner.whole_teacher(state)
            write_teacher(self.teacher, teacher, self._card(teacher, step))
            place = {"step": step, "epoch": step // self.per_epoch, "config": self.config.to_dict()}
            self.checkpoints.save({**state, **place, "images": self.images.fingerprints})
            if log is not None:
                self._follow_up(step, teacher, log)
        self.shard.barrier()

    def _follow_up(self, step: int, teacher: Network, log: Log) -> None:
        """Keep the checkpoint of a whole epoch and evaluate its teacher, where due and not done before."""
        run, epoch = self.config.run, step // self.per_epoch
        if run.checkpoint_every and epoch % run.checkpoint_every == 0:
            self.checkpoints.keep(f"epoch_{epoch:04d}.pt")
        if run.evaluate_every and epoch % run.evaluate_every == 0:
            if not log.has_evaluation(step - 1):
                teacher, card = teacher.to(self.learner.device), self._card(teacher, step)
                scores = evaluate_teacher(teacher, card, self.evaluated_on, self.options, run.evaluate_limit)
                log.evaluation(step - 1, epoch - 1, scores)
            if log.best_evaluation() == step - 1:
                self.checkpoints.keep("best.pt")

    def _card(self, teacher: Network, step: int) -> BackboneCard:
        return teacher_card(teacher, self.config, self.data, (step - 1) // self.per_epoch)

    def _orders(self, start: int) -> Iterator[np.ndarray]:
        """Yield the rows of this process for every step from ``start`` on."""
        run, share = self.config.run, self.config.run.batch_size // self.shard.world
        mine = slice(self.shard.rank * share, (self.shard.rank + 1) * share)
        for epoch in range(start // self.per_epoch, run.epochs):
            order = epoch_order(run.seed, epoch, len(self.images), run.batch_size)
            skipped = start % self.per_epoch if epoch == start // self.per_epoch else 0
            yield from order[skipped:, mine]

    def _masks(self, step: int) -> Tensor | None:
        """Return the charged patches of this process's global crops, crop by crop."""
        loss, batch = self.config.loss, self.config.run.batch_size
        if loss.ibot <= 0:
            return None
        share = batch // self.shard.world
        side = self.config.views_at(step // self.per_epoch).global_size
        grid = side // self.config.model.patch_size
        if loss.distill:
            return torch.ones(2 * share, grid**2, dtype=torch.bool, device=self.learner.device)
        random = np.random.default_rng([self.config.run.seed, step, 1 << 20])
        masks = draw_masks(random, 2 * batch, grid, loss.mask_probability, loss.mask_ratio)
        mine = masks.reshape(2, batch, -1)[:, self.shard.rank * share : (self.shard.rank + 1) * share]
        return torch.from_numpy(mine.reshape(2 * share, -1)).to(self.learner.device)

    def _agreed(self, stop: bool) -> bool:
        """Return whether any process was told to stop: all must stop at the same step."""
        if self.shard.world == 1:
            return stop
        flag = torch.tensor(float(stop))
        distributed.all_reduce(flag)
        return bool(flag > 0)


def _chosen(name: str) -> torch.device:
    """Return a device; a GPU with a number becomes the current one, by which NCCL goes."""
    device = torch.device(name)
    if name.startswith("cuda:"):
        torch.cuda.set_device(device)
    return device


def _silent(text: str) -> None:
    del text


def _seed(seed: int, step: int, rank: int) -> None:
    # Every step seeds anew, so that the step alone tells what stochastic depth draws.
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))


@contextmanager
def _signals() -> Generator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying of them, where this thread may."""
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)

    try:
        before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread, which alone may
        before = {}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
