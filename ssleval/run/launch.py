"""A sweep as jobs: submit those that are left, watch them, yield their results.

Every job is the user's command with ``--part``, so that what a job does can be repeated by hand.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ssleval.core import Context
from ssleval.core.backbone import Backbone
from ssleval.core.files import write_text_atomically
from ssleval.core.text import counted, some
from ssleval.errors import NotApplicableError, SslevalError
from ssleval.features import cache
from ssleval.results import Result, record
from ssleval.run.executors import Launcher, fault_of, is_queued
from ssleval.run.measure import Note, plan_ahead, silent
from ssleval.run.parts import Part, Unit, shares, units_of
from ssleval.run.sweep import Sweep, jobs_of, load_asked, models

FOLDER = "_jobs"
"""Where logs are, below the folder of results; no model's folder begins with ``_``."""
SAID_EVERY = 30.0
"""Seconds between two lines on progress."""
_LEDGER = "jobs.json"


def launch(
    asked: Sweep, context: Context, folder: Path, launcher: Launcher, words: Sequence[str], note: Note
) -> Iterator[Result | SslevalError]:
    """Yield the results of a sweep that jobs measure, and last an error for each job that failed.

    Units whose results are all stored are not submitted. Jobs of an earlier call that are still in the
    cluster's queue are watched, not submitted again. ``words`` are the command line; each job adds its part.

    Raises:
        SslevalError: the request is faulty; nothing is submitted.
    """
    units = units_of(models(asked), jobs_of(asked).applicable(note, named=asked.suite is None))
    stored = _stored(asked, context, folder, units)
    divided = shares(units, min(launcher.jobs or len(units), len(units)))
    left: dict[Part, list[Unit]] = {}
    for number, own in enumerate(divided, start=1):
        if all(str(unit) in stored for unit in own):
            for unit in own:
                yield from stored[str(unit)]
        else:
            left[Part(number, len(divided))] = own
    if left:
        commands = {part: launcher.command([*words, f"--part={part}"]) for part in left}
        yield from _Launch(launcher, folder, context.cache, note).results(left, commands)


def _stored(asked: Sweep, context: Context, folder: Path, units: Sequence[Unit]) -> dict[str, list[Result]]:
    """Return the results of the units that have all of theirs; only models with results are loaded."""
    # Keys are those of every device, and this machine may have none but its CPU.
    here, found = replace(context, device="cpu"), dict[str, list[Result]]()
    backbone: Backbone | None = None
    loaded = ""
    for unit in units:
        if not record.has_results(folder, unit.model):
            continue
        try:
            if backbone is None or loaded != unit.model:
                backbone, loaded = load_asked(unit.model, asked, here), unit.model
            results = _results(unit, backbone, here, folder, named=asked.suite is None)
        except SslevalError:
            # Its job says why.
            continue
        if results is not None:
            found[str(unit)] = results
    return found


def _results(
    unit: Unit, backbone: Backbone, context: Context, folder: Path, *, named: bool
) -> list[Result] | None:
    """Return the stored results of a unit; None if one is missing."""
    results: list[Result] = []
    for group in unit.groups:
        for ahead in plan_ahead(backbone, group, context, folder, force=False, note=silent, named=named):
            if isinstance(ahead, SslevalError):
                raise ahead
            if any(named or not isinstance(error, NotApplicableError) for error in ahead.errors):
                return None
            if any(plan.key not in ahead.done for plan in ahead.plans):
                return None
            results += [ahead.done[plan.key] for plan in ahead.plans]
    return results


@dataclass
class _Launch:
    launcher: Launcher
    results_folder: Path
    cache: Path
    note: Note
    running: dict[Part, Any] = field(default_factory=dict[Part, Any])
    _slots: dict[Part, int] = field(default_factory=dict[Part, int])

    def results(
        self, left: Mapping[Part, Sequence[Unit]], commands: Mapping[Part, list[str]]
    ) -> Iterator[Result | SslevalError]:
        """Run a job for each part; yield results as jobs end, and failures at the end."""
        queue, failed, said = self._attach(commands), list[SslevalError](), time.monotonic()
        executor = self.launcher.executor(self._folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}")
        if queue:
            self.note(f"{counted(len(queue), 'job')} to run; logs in {executor.folder}")
        try:
            while queue or self.running:
                queue = self._submit(executor, queue, commands)
                for part in [part for part, job in self.running.items() if job.done()]:
                    job = self.running.pop(part)
                    yield from _printed(job.paths.stdout)
                    if fault := fault_of(job):
                        told = f"{some(left[part])}: the job failed: {fault}; log: {job.paths.stderr}"
                        failed.append(SslevalError(told))
                if time.monotonic() - said >= SAID_EVERY:
                    self.note(self._progress(left, len(queue), len(failed)))
                    said = time.monotonic()
                time.sleep(0.1 if self.launcher.parallel else 1)
        finally:
            self._leave()
        yield from failed

    @property
    def _folder(self) -> Path:
        return self.results_folder / FOLDER

    def _submit(self, executor: Any, queue: list[Part], commands: Mapping[Part, list[str]]) -> list[Part]:
        """Submit as many parts as may run at once; return the others."""
        most = self.launcher.parallel or len(queue)
        now = queue[: max(0, most - len(self.running))] if self.launcher.parallel else queue
        if now and self.launcher.parallel:
            for part in now:
                slot = min(set(range(most)) - {self._slots[other] for other in self.running})
                self._slots[part] = slot
                self.running[part] = self.launcher.submit_here(executor, commands[part], slot)
        elif now:
            jobs = self.launcher.submit_array(executor, [commands[part] for part in now])
            self.running |= dict(zip(now, jobs, strict=True))
            ids = {job.job_id: commands[part] for part, job in zip(now, jobs, strict=True)}
            write_text_atomically(executor.folder / _LEDGER, json.dumps(ids, indent=1) + "\n")
        return queue[len(now) :]

    def _attach(self, commands: Mapping[Part, list[str]]) -> list[Part]:
        """Watch the jobs of earlier calls that are still in the cluster's queue; return the other parts."""
        if not self.launcher.parallel:
            parts = {tuple(command): part for part, command in commands.items()}
            for ledger in sorted(self._folder.glob(f"*/{_LEDGER}")):
                for name, command in json.loads(ledger.read_text(encoding="utf-8")).items():
                    part, job = parts.get(tuple(command)), self.launcher.job(ledger.parent, name)
                    if part is not None and is_queued(job):
                        self.running[part] = job
            if self.running:
                self.note(f"{counted(len(self.running), 'job')} of an earlier call still in the queue")
        return [part for part in commands if part not in self.running]

    def _progress(self, left: Mapping[Part, Sequence[Unit]], waiting: int, failed: int) -> str:
        done = len(left) - waiting - len(self.running)
        told = f"{done} of {counted(len(left), 'job')} done, {failed} failed, {len(self.running)} submitted"
        models_now = {unit.model for part in self.running for unit in left[part]}
        with suppress(OSError):
            for entry in cache.info(self.cache):
                if entry.model in models_now and not entry.complete:
                    share = min(entry.readouts.values(), default=0.0)
                    told += f"; {entry.model} {entry.dataset}/{entry.split} {share:.0%}"
        return told

    def _leave(self) -> None:
        """End the jobs on this machine; those of a cluster go on."""
        if self.launcher.parallel:
            for job in self.running.values():
                job.cancel()
        elif self.running:
            ids = " ".join(sorted({job.job_id.partition("_")[0] for job in self.running.values()}))
            self.note(f"the jobs go on; the same command watches them again, `scancel {ids}` ends them")


def _printed(log: Path) -> Iterator[Result]:
    """Yield the results that a job printed, each once: one that was started again prints some twice."""
    paths: dict[str, None] = {}
    with suppress(FileNotFoundError), log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith('{"schema"'):
                with suppress(ValueError):
                    paths[json.loads(line)["path"]] = None
    for path in paths:
        yield record.read(Path(path))
