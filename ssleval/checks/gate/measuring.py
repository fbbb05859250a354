"""Measure baseline and candidate with one suite; only what is not stored yet is computed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ssleval.backbones.weights.weightfile import describes_itself
from ssleval.checks.gate.verdicts import Verdict, judge
from ssleval.core import Context
from ssleval.core.backbone import Backbone
from ssleval.core.registry import suggestion
from ssleval.core.settings import Positive, convert
from ssleval.core.task import tasks
from ssleval.errors import ConfigError, DataError, NotApplicableError, UnknownNameError
from ssleval.features import local_device
from ssleval.results import Result
from ssleval.results.compare import Pairing, pairings
from ssleval.results.lookup import stored_results
from ssleval.run.measure import Job, measure
from ssleval.run.suites import read_suite
from ssleval.run.sweep import Sweep, applicable_jobs, batches, load_asked, models


@dataclass(frozen=True, slots=True)
class Gate:
    """What is held against what."""

    suite: Sweep
    """Suite, datasets, limit and the like; its models and checkpoint are those of baseline and candidate."""
    baseline: str
    """A result file, a folder of one model's results, or a model to measure."""
    candidate: str
    """A checkpoint file, or a model; a file that says which architecture it holds is a model."""
    architecture: str = ""
    """The model whose weights a checkpoint file holds; none: the baseline's."""
    margins: Mapping[str, float] = field(default_factory=dict[str, float])
    """By ``task`` or ``task/dataset``; before those of the suite."""
    seeds: int = 3
    """Probe seeds of every task that has any."""


def run_gate(asked: Gate, context: Context, folder: Path, *, note: Callable[[str], None]) -> list[Verdict]:
    """Return a verdict for every task of the suite.

    Raises:
        SslevalError: a name, margin or file the caller can mend; a baseline without what is needed.
    """
    margins = _margins(asked)
    context = replace(context, device=local_device(context.device))
    stored = _is_stored(asked.baseline)
    if stored:
        baseline = stored_results(asked.baseline, folder)
    else:
        baseline = _measured(asked.baseline, None, asked, context, folder, note)
    file = Path(asked.candidate)
    if file.is_file() and not (describes_itself(file) and not asked.architecture):
        name = asked.architecture or baseline[0].model
        candidate = _measured(name, file, asked, context, folder, note)
    else:
        candidate = _measured(asked.candidate, None, asked, context, folder, note)
    _check_candidate(asked, baseline, candidate)
    found = pairings(baseline, candidate)
    _check_baseline(found, candidate, stored=stored)
    return judge(found, margins)


def _is_stored(baseline: str) -> bool:
    """Return whether this names results, not a model: a file, a folder, or a folder and ``@`` digits."""
    folder = baseline.rpartition("@")[0]
    return baseline.endswith(".json") or Path(baseline).is_dir() or bool(folder and Path(folder).is_dir())


def _margins(asked: Gate) -> dict[str, float]:
    if asked.suite.suite is None or asked.seeds < 1:
        raise ConfigError(f"gate: suite {asked.suite.suite}, {asked.seeds} seeds; needs a suite and a seed")
    measurements = read_suite(asked.suite.suite)
    known = {one.task for one in measurements} | {f"{one.task}/{one.dataset}" for one in measurements}
    for name, margin in asked.margins.items():
        if name not in known:
            raise UnknownNameError(f"--margin {name}: not in {asked.suite.suite}; {suggestion(name, known)}")
        convert(f"--margin {name}", margin, Positive)
    pinned = {f"{one.task}/{one.dataset}": one.margin for one in measurements if one.margin is not None}
    # A margin given for a task stands before one the suite has for that task on a dataset.
    kept = {name: margin for name, margin in pinned.items() if name.partition("/")[0] not in asked.margins}
    return {**kept, **asked.margins}


def _measured(
    name: str,
    checkpoint: Path | None,
    asked: Gate,
    context: Context,
    folder: Path,
    note: Callable[[str], None],
) -> list[Result]:
    sweep = replace(asked.suite, models=name, checkpoint=checkpoint)
    names = models(sweep)
    if len(names) > 1:
        raise ConfigError(f"gate: one model at a time, not {len(names)}: {', '.join(names[:4])}")
    # Once for all probe seeds: the seed of an untrained model is not that of its probes.
    backbone = load_asked(names[0], sweep, context)
    groups = [applicable_jobs(measurements, sweep, note) for measurements in batches(sweep)]
    found: list[Result] = []
    for seed in range(context.seed, context.seed + asked.seeds):
        found += _of_seed(
            backbone, groups, replace(context, seed=seed), folder, note, every=seed == context.seed
        )
    if not found:
        raise NotApplicableError(f"gate: nothing in {asked.suite.suite} applies to {names[0]}")
    return found


def _of_seed(
    backbone: Backbone,
    groups: list[list[Job]],
    context: Context,
    folder: Path,
    note: Callable[[str], None],
    *,
    every: bool,
) -> list[Result]:
    """Return the results of one probe seed: of every task, or of those that a seed may move."""
    found: list[Result] = []
    for group in groups:
        jobs = [job for job in group if every or job.task.seeded]
        try:
            found += measure(backbone, jobs, context, folder, note=note) if jobs else ()
        except NotApplicableError as error:
            note(f"not applicable: {error}")
    return found


def _check_candidate(asked: Gate, baseline: list[Result], candidate: list[Result]) -> None:
    """Refuse a candidate that cannot be judged by all that the baseline was measured with."""
    assert asked.suite.suite is not None
    suite = {(one.task, one.dataset) for one in read_suite(asked.suite.suite)}
    had = suite & {(one.task, one.dataset) for one in baseline}
    if lost := sorted(had - {(one.task, one.dataset) for one in candidate}):
        raise NotApplicableError(
            f"gate: {', '.join('/'.join(one) for one in lost)} cannot be measured on the candidate, but was "
            "on the baseline; use a suite that both can do"
        )


def _check_baseline(found: list[Pairing], candidate: list[Result], *, stored: bool) -> None:
    """Refuse to judge by less than was asked for."""
    paired = {one.key for pair in found for one in pair.second}
    for one in candidate:
        if one.key not in paired:
            seed = f" with seed {one.settings['seed']}" if tasks.get(one.task).seeded else ""
            mend = (
                "measure it with the same suite and limit for every probe seed (`ssleval run --seed`), or "
                "lower --seeds"
            )
            raise DataError(
                f"gate: the baseline has no comparable result of {one.task}/{one.dataset}{seed}; "
                f"{mend if stored else 'use a suite that both can do'}"
            )
