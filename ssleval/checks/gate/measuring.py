"""Measure baseline and candidate with one suite; only what is not stored yet is computed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta

from ssleval.backbones.weights.weightfile import describes_itself
from ssleval.backbones.zoo import find_card
from ssleval.checks.gate.firstrun import is_missing, recorded, refuse_unrecordable
from ssleval.checks.gate.verdicts import Verdict, judge
from ssleval.core import Context
from ssleval.core.devices import place
from ssleval.core.registry import suggestion
from ssleval.core.settings import Positive, convert
from ssleval.core.task import tasks
from ssleval.core.text import NOT_MEASURED
from ssleval.errors import ConfigError, DataError, NotApplicableError, UnknownNameError
from ssleval.features import current_shard, local_device
from ssleval.results import Result
from ssleval.results.compare import Pairing, pairings
from ssleval.results.lookup import stored_results
from ssleval.run.jobs import Job
from ssleval.run.measure import Note, measure, silent
from ssleval.run.suites import Measurement, read_suite
from ssleval.run.sweep import Sweep, jobs_of, load_asked, models

FirstRun: TypeAlias = Literal["pass", "fail"]

_Seeds = Annotated[int, Meta(ge=1, le=1000)]


@dataclass(frozen=True, slots=True)
class Gate:
    """A candidate, the baseline it is compared with, and the suite that both are measured with."""

    suite: Sweep
    """Suite, datasets, limit and the like; the gate fills in models and checkpoint. Its ``card`` is the
    candidate's."""
    baseline: str
    """A result file, a folder of one model's results, or a model to measure."""
    candidate: str
    """A checkpoint file or a model; a file that states its architecture is a model."""
    architecture: str = ""
    """The model whose weights a checkpoint file holds; '' is the baseline's model."""
    margins: Mapping[str, float] = field(default_factory=dict[str, float])
    """By ``task`` or ``task/dataset``; they take precedence over those of the suite."""
    seeds: int = 3
    """Probe seeds of every task that has any."""
    first_run: FirstRun = "fail"
    """Whether a candidate passes, and is recorded as the baseline, where there is no baseline yet."""


def run_gate(gate: Gate, context: Context, folder: Path, *, note: Note) -> list[Verdict]:
    """Return a verdict for every task of the suite.

    Raises:
        SslevalError: a name, margin or file that the caller can correct; a baseline that lacks results, or is
            missing while ``first_run`` is ``fail``.
    """
    if gate.suite.suite is None:
        raise ConfigError("gate: no suite; name one, such as ci")
    shard = current_shard()
    with shard.agreed("gate"):
        shard.same("gate", {**gate.suite.compared(), "seeds": gate.seeds, **context.recorded()})
        suite = read_suite(gate.suite.suite)
        return _verdicts(gate, suite, context, folder, note if shard.leads else silent)


def _verdicts(
    gate: Gate, suite: Sequence[Measurement], context: Context, folder: Path, note: Note
) -> list[Verdict]:
    shard = current_shard()
    context = replace(context, device=local_device(context.device))
    margins = _margins(gate, suite)
    file = Path(gate.candidate)
    is_weights = file.is_file() and bool(gate.architecture or not describes_itself(file))
    # The first process alone reads and writes results, which need not be on the machines of the others.
    is_first = shard.from_leader("first run", lambda: _is_first(gate, is_weights=is_weights))
    stored = is_first or shard.from_leader("baseline", lambda: _is_stored(gate.baseline))
    # Before the baseline is measured, which may take hours.
    if not stored:
        _refuse_unknown(gate, gate.baseline, f"; if it is to be a folder of results, write ./{gate.baseline}")
    if not is_weights:
        _refuse_unknown(gate, gate.candidate)
    groups = jobs_of(gate.suite).applicable(note)
    if where := place(context.device, int(context.num_workers)):
        note(where)
    spent: dict[str, float] = {}
    measured = partial(_measured, gate, groups, context, folder, note, spent)
    baseline: list[Result] = []
    if stored and not is_first:
        baseline = shard.from_leader("results", lambda: stored_results(gate.baseline, folder))
    elif not is_first:
        baseline = measured({}, gate.baseline)
    if is_weights:
        candidate = measured(gate.suite.card, gate.architecture or baseline[0].model, file)
    else:
        candidate = measured(gate.suite.card, gate.candidate)
    if is_first:
        pairs = pairings(candidate, candidate)
        return shard.from_leader(
            "baseline", lambda: _timed(recorded(pairs, gate.baseline, margins, note), pairs, spent)
        )
    _check_candidate(suite, baseline, candidate)
    pairs = pairings(baseline, candidate)
    _check_baseline(pairs, candidate, stored=stored)
    return shard.from_leader("verdicts", lambda: _timed(judge(pairs, margins), pairs, spent))


def _refuse_unknown(gate: Gate, name: str, hint: str = "") -> None:
    try:
        for one in models(replace(gate.suite, models=name)):
            if ":" not in one:
                find_card(one)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error}{hint}") from error


def _is_first(gate: Gate, *, is_weights: bool) -> bool:
    """Return whether there is no baseline yet; refuse that where it does not pass or cannot be recorded."""
    if not is_missing(gate.baseline):
        return False
    if gate.first_run == "fail":
        raise UnknownNameError(
            f"gate: no such file or folder: {gate.baseline} (the baseline); name one, or, on the first "
            "run, let the candidate become the baseline by --first-run pass"
        )
    refuse_unrecordable(gate.baseline)
    if is_weights and not gate.architecture:
        raise ConfigError(f"gate: no baseline yet; name the architecture of {gate.candidate} by --model")
    return True


def _timed(
    verdicts: Sequence[Verdict], pairs: Sequence[Pairing], spent: Mapping[str, float]
) -> list[Verdict]:
    """Return the verdicts with the seconds that the results of their pairs took, by key."""
    keys = [{result.key for result in (*pair.first, *pair.second)} for pair in pairs]
    return [
        replace(verdict, seconds=round(sum(spent.get(key, 0.0) for key in own), 3))
        for verdict, own in zip(verdicts, keys, strict=True)
    ]


def _is_stored(baseline: str) -> bool:
    """Return whether this names results, not a model: a file, a folder, or a folder and ``@`` digits."""
    folder = baseline.rpartition("@")[0]
    return baseline.endswith(".json") or Path(baseline).is_dir() or bool(folder and Path(folder).is_dir())


def _margins(gate: Gate, suite: Sequence[Measurement]) -> dict[str, float]:
    convert("gate: seeds", gate.seeds, _Seeds)
    known = {line.task for line in suite} | {f"{line.task}/{line.dataset}" for line in suite}
    for name, margin in gate.margins.items():
        if name not in known:
            raise UnknownNameError(f"--margin {name}: not in {gate.suite.suite}; {suggestion(name, known)}")
        convert(f"--margin {name}", margin, Positive)
    # The caller's margin of a task takes precedence over the suite's margin of that task on a dataset.
    of_suite = {
        f"{line.task}/{line.dataset}": line.margin
        for line in suite
        if line.margin is not None and line.task not in gate.margins
    }
    return {**of_suite, **gate.margins}


def _measured(
    gate: Gate,
    groups: Sequence[Sequence[Job]],
    context: Context,
    folder: Path,
    note: Note,
    spent: dict[str, float],
    card: Mapping[str, Any],
    name: str,
    checkpoint: Path | None = None,
) -> list[Result]:
    sweep = replace(gate.suite, models=name, checkpoint=checkpoint, card=card)
    names = models(sweep)
    if len(names) > 1:
        raise ConfigError(f"gate: one model at a time, not {len(names)}: {', '.join(names[:4])}")
    # Loaded once for all probe seeds: they do not seed an untrained model.
    backbone = load_asked(names[0], sweep, context, note)
    results: list[Result] = []
    for seed, group in product(range(context.seed, context.seed + gate.seeds), groups):
        # A task that no seed moves runs once.
        jobs = [job for job in group if seed == context.seed or job.task.seeded]
        if not jobs:
            continue
        started = time.perf_counter()
        try:
            for result in measure(backbone, jobs, replace(context, seed=seed), folder, note=note):
                results.append(result)
                # A pass that several tasks share is the time of the first.
                spent[result.key] = spent.get(result.key, 0.0) + time.perf_counter() - started
                started = time.perf_counter()
        except NotApplicableError as error:
            note(f"{NOT_MEASURED}{error}")
    if not results:
        raise NotApplicableError(f"gate: nothing in {gate.suite.suite} applies to {names[0]}")
    return results


def _check_candidate(
    suite: Sequence[Measurement], baseline: Sequence[Result], candidate: Sequence[Result]
) -> None:
    """Refuse a candidate that lacks a task of the suite that the baseline was measured with."""
    had = {(line.task, line.dataset) for line in suite}
    had &= {(result.task, result.dataset) for result in baseline}
    if lost := sorted(had - {(result.task, result.dataset) for result in candidate}):
        raise NotApplicableError(
            f"gate: {', '.join(map('/'.join, lost))} cannot be measured on the candidate, but was on the "
            "baseline; use a suite that both can do"
        )


def _check_baseline(pairs: list[Pairing], candidate: list[Result], *, stored: bool) -> None:
    """Refuse a baseline that lacks a comparable result for one of the candidate's."""
    paired = {result.key for pair in pairs for result in pair.second}
    again = "measure it with the same suite and limit for every probe seed (`run --seed`), or lower --seeds"
    advice = again if stored else "use a suite that both can do"
    for result in candidate:
        if result.key not in paired:
            name = f"{result.task}/{result.dataset}"
            seed = f" with seed {result.settings['seed']}" if tasks.get(result.task).seeded else ""
            raise DataError(f"gate: the baseline has no comparable result of {name}{seed}; {advice}")
