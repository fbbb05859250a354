"""submitit's executors: which options they take, how jobs are submitted, how a job ended."""

import os
import re
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta

from ssleval.core.registry import suggestion
from ssleval.core.settings import Count, Natural, Positive, convert
from ssleval.errors import ConfigError, UnknownNameError
from ssleval.run.command import Command

_OURS = {"jobs": Count, "array_parallelism": Count, "max_num_timeout": Natural}
"""Options that every executor has here: shares of the work, how many run at once, restarts for time-outs."""
_NUMBERS = {
    "timeout_min": Count, "gpus_per_node": Natural, "gpus_per_task": Natural, "cpus_per_task": Count,
    "cpus_per_gpu": Count, "mem_gb": Positive, "signal_delay_s": Annotated[int, Meta(ge=1)], "use_srun": bool,
}  # fmt: skip
_LISTS = {"setup", "teardown", "srun_args"}
"""Options that may be repeated."""
_LOCAL = {"timeout_min", "gpus_per_node", "signal_delay_s", "setup"}
_FIXED = {
    "time": "say timeout_min=MINUTES",
    "nodes": "a job is on one node; `torchrun` over several nodes is in docs/cluster.md",
    "tasks_per_node": "a job is one task, which starts a process for each of gpus_per_node",
    "ntasks_per_node": "a job is one task, which starts a process for each of gpus_per_node",
}
"""Options of submitit that are not the user's, and what to do instead."""
_MONTH = 31 * 24 * 60
_LOG_BYTES = 1 << 16
"""How much of the end of a log is searched for why a job failed."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """Where jobs run, and with which options."""

    cluster: str
    """``slurm`` or ``local``."""
    parameters: Mapping[str, Any]
    """Those of submitit's executor."""
    jobs: int | None = None
    """The most jobs that the work is divided into; None: a job for each unit."""
    parallel: int = 0
    """The most jobs at once on this machine; 0: the cluster decides."""
    timeouts: int = 3
    """How often a job may run out of time and be started again."""

    @property
    def gpus(self) -> int:
        """How many GPUs a job has."""
        return self.parameters.get("gpus_per_node") or self.parameters.get("gpus_per_task") or 0

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the command line of a job that runs ``ssleval`` with ``words``, on all its GPUs."""
        processes = ["torch.distributed.run", "--standalone", f"--nproc-per-node={self.gpus}", "-m"]
        return [sys.executable, "-m", *(processes if self.gpus > 1 else []), "ssleval", *words]

    def executor(self, folder: Path) -> Any:
        """Return submitit's executor, whose jobs keep their logs in ``folder``."""
        executor = _executors()[self.cluster](folder, max_num_timeout=self.timeouts)
        # submitit knows some options by other names, as does sbatch.
        executor.update_parameters(**executor._convert_parameters(dict(self.parameters)))
        return executor

    def submit_here(self, executor: Any, words: list[str], slot: int) -> Any:
        """Start a job on this machine with the GPUs and the share of the cores of its slot."""
        from submitit.helpers import environment_variables

        executor.update_parameters(visible_gpus=visible_gpus()[slot * self.gpus :][: self.gpus])
        threads = os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // self.parallel)
        with environment_variables(OMP_NUM_THREADS=threads), _stderr_into(executor.folder / "submitit.err"):
            return executor.submit(Command(), words)

    def submit_array(self, executor: Any, commands: Sequence[list[str]]) -> list[Any]:
        """Submit jobs to the cluster, several as an array; ConfigError: it refuses them."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            return executor.map_array(Command(), commands)
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(f"sbatch refused the jobs: {str(error).strip()}") from error

    def job(self, folder: Path, name: str) -> Any:
        """Return the job that an earlier call submitted."""
        return _executors()[self.cluster].job_class(folder, name)


def read_launcher(name: str, texts: Sequence[str]) -> Launcher:
    """Return the launcher that ``--launcher`` and ``--launch`` describe.

    Raises:
        UnknownNameError: no such launcher or option; the message offers the nearest.
        ConfigError: submitit or Slurm is missing, or an option has a value that it cannot take.
    """
    library, _, cluster = name.partition(":")
    if library != "submitit" or cluster not in {"", "slurm", "local"}:
        raise UnknownNameError(f"no launcher {name!r}; known: submitit, submitit:local")
    cluster = cluster or "slurm"
    kind = _executors()[cluster]
    if cluster == "slurm" and kind.affinity() <= 0:
        raise ConfigError(
            "--launcher submitit: no srun here, so this is no machine of a Slurm cluster; "
            "--launcher submitit:local runs the jobs on this machine"
        )
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("--launcher: not under torchrun; jobs with several GPUs start it themselves")
    stated = _stated(texts, _LOCAL if cluster == "local" else _slurm_options(kind))
    jobs, timeouts = stated.pop("jobs", None), stated.pop("max_num_timeout", 3)
    if cluster == "local":
        at_once = _at_once(stated)
        return Launcher(cluster, {"timeout_min": _MONTH, **stated}, jobs, at_once, timeouts)
    if "timeout_min" not in stated:
        raise ConfigError("--launch states no timeout_min, the minutes that a job may take: timeout_min=240")
    return Launcher(cluster, {"name": "ssleval", **stated}, jobs, 0, timeouts)


def _at_once(stated: dict[str, Any]) -> int:
    """Return how many jobs run at once on this machine; state how many GPUs each has."""
    there = len(visible_gpus())
    gpus = stated.setdefault("gpus_per_node", min(1, there))
    at_once = stated.pop("array_parallelism", max(1, there // gpus) if gpus else 1)
    if at_once * gpus > there:
        raise ConfigError(
            f"--launch gpus_per_node={gpus}: {at_once} at once are {at_once * gpus} GPUs; "
            f"this machine has {there}"
        )
    return at_once


def visible_gpus() -> list[int]:
    """Return the GPUs of this machine that this process may use, by number."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if re.fullmatch(r"\d+(,\d+)*", stated):
        return [int(number) for number in stated.split(",")]
    return list(range(torch.cuda.device_count()))


@contextmanager
def _stderr_into(path: Path) -> Generator[None]:
    """Let processes that begin here write to a file: one that is interrupted shows a traceback."""
    kept = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def is_queued(job: Any) -> bool:
    """Return whether the cluster says that a job waits or runs."""
    return not job.done() and job.state != "UNKNOWN"


def fault_of(job: Any) -> str:
    """Return why a job that ended failed; '' if it did not."""
    import submitit

    if isinstance(job, submitit.LocalJob):
        # No network file system delays the answer of a process that has ended.
        job._results_timeout_s = 0  # pyright: ignore[reportAttributeAccessIssue]
    problem = job.exception()
    if problem is not None:
        # submitit's own words: the job was lost, or ran out of time too often.
        reason = re.search(r"not requeued because: .*", str(problem))
        return reason[0] if reason else f"it ended without an exit code, {job.state}"
    code = job.result()
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}{', as where memory is short' if name == 'SIGKILL' else ''}"
    return (_last_words(job.paths.stderr) or f"exit code {code}") if code else ""


def _last_words(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_BYTES))
        text = file.read().decode(errors="replace")
    lines = re.findall(r"^ssleval: (.*)$", text, re.M) or text.split("\n")[-2:-1]
    return lines[-1].strip() if lines else ""


def _stated(texts: Sequence[str], taken: set[str]) -> dict[str, Any]:
    """Return what the texts of ``--launch`` state: comma lists of ``NAME=VALUE``."""
    known = {*taken, *_OURS} - {*_FIXED}
    stated: dict[str, Any] = {}
    # A comma may be part of a value: nodelist=a,b.
    for part in [part for text in texts for part in re.split(r",(?=\w+=)", text)]:
        name, equals, value = part.strip().partition("=")
        if name in _FIXED:
            raise ConfigError(f"--launch {name}: {_FIXED[name]}")
        if name not in known:
            raise UnknownNameError(f"--launch has no option {name!r}; {suggestion(name, known)}")
        if not equals or not value or (name in stated and name not in _LISTS):
            raise ConfigError(f"--launch {part}: write each option once, as {name}=VALUE")
        if name in _LISTS:
            stated.setdefault(name, []).append(value)
        else:
            stated[name] = convert(f"--launch {name}", value, {**_OURS, **_NUMBERS}.get(name, str))
    return stated


def _slurm_options(kind: Any) -> set[str]:
    # What is a mapping has no text form, and one name is of an earlier version.
    return {*kind._valid_parameters(), *kind._equivalence_dict()} - {
        "additional_parameters",
        "num_gpus",
        "stderr_to_stdout",
    }


def _executors() -> Mapping[str, Any]:
    try:
        import cloudpickle
        import submitit
    except ImportError as error:
        raise ConfigError(
            "--launcher submitit: needs the submitit library; pip install 'ssleval[cluster]'"
        ) from error
    cloudpickle.register_pickle_by_value(sys.modules[Command.__module__])
    return {"slurm": submitit.SlurmExecutor, "local": submitit.LocalExecutor}
