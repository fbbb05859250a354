"""Jobs of submitit: what is submitted, how each ends, and that nothing is done twice.

The jobs run a stand-in for the command line, which needs no torch; `benchmarks/jobs.py` runs the real one.
"""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from ssleval.core import Context
from ssleval.errors import ConfigError, SslevalError, UnknownNameError
from ssleval.run import command, executors, launch
from ssleval.run.command import Command
from ssleval.run.executors import Launcher, read_launcher
from ssleval.run.parts import Part, read_part
from ssleval.run.sweep import Sweep
from tests.cli.test_cli import Cli, cli  # noqa: F401  # pyright: ignore[reportUnusedImport]

submitit = pytest.importorskip("submitit")

STAND_IN = """
import json, os, pathlib, shutil, signal, sys, time
part = sys.argv[-1].partition("=")[2]
with open(f"ran-{part[0]}", "a") as file:
    file.write("x")
number = len(open(f"ran-{part[0]}").read())
how = dict(line.split() for line in open("how")).get(part[0], "well")
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "lost":
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if how == "refused":
    print("ssleval: waiting for another process", file=sys.stderr)
    sys.exit("ssleval: broken.png: cannot be decoded")
if how == "preempted" and number == 1:
    try:
        os.kill(os.getppid(), signal.SIGUSR2)
        time.sleep(60)
    finally:
        open("interrupted", "w")
for stored in sorted(pathlib.Path("made").glob(f"*{part[0]}.json")):
    print(json.dumps({"schema": 1, "path": str(stored)}), flush=True)
"""


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the job as it is: a class that checks its types holds what cannot be pickled."""
    spec = spec_from_file_location("plain_command", command.__file__)
    assert spec
    assert spec.loader
    plain = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "plain_command", plain)
    spec.loader.exec_module(plain)
    monkeypatch.setattr(executors, "Command", plain.Command)


@pytest.fixture
def stand_in(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """Return a folder in which jobs run the stand-in; ``how`` says, by part, how each ends."""
    (cli.folder / "how").write_text("")

    def replaced(_: Launcher, words: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", STAND_IN, *words]

    monkeypatch.setattr(Launcher, "command", replaced)
    monkeypatch.setattr(launch.record, "read", Path)
    return cli.folder


# Ctrl-C is ignored where a script's `&` started the tests.
LONG = (
    "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); print(7, flush=True); "
    "time.sleep(99)"
)
PARTS = "1/3", "2/3", "3/3"
MODELS = "random:vit_tiny,random:vit_small,pixels"


def run_all(folder: Path, launcher: Launcher) -> tuple[list[Any], list[str], list[str]]:
    """Return what a sweep over three models yields, its failures, and what it says."""
    said: list[str] = []
    settings = "spectrum.first=1", "spectrum.last=3"
    sweep = Sweep(MODELS, "spectrum", "digits", settings=settings, limit=9)
    context = Context(cache=folder / "cache")
    outcomes = list(launch.launch(sweep, context, folder / "results", launcher, ["run"], said.append))
    failures = [str(outcome) for outcome in outcomes if isinstance(outcome, SslevalError)]
    return [one for one in outcomes if not isinstance(one, SslevalError)], failures, said


# Options


@pytest.mark.parametrize(
    ("name", "texts", "words"),
    [
        ("submitit", ["timeout_min=2,partitoin=gpu"], "no option 'partitoin'; did you mean partition"),
        ("submitit", ["partition=gpu"], "timeout_min"),
        ("submitit", ["timeout_min=240,gpus_per_node=one"], "gpus_per_node=one: expected a whole number"),
        ("submitit", ["timeout_min=2.5"], "timeout_min=2.5: expected a whole number"),
        ("submitit", ["timeout_min=0"], "timeout_min=0"),
        ("submitit", ["time=4:00:00"], "say timeout_min=MINUTES"),
        ("submitit", ["timeout_min=2,nodes=2"], "docs/cluster.md"),
        ("submitit", ["timeout_min=2,tasks_per_node=8"], "gpus_per_node"),
        ("submitit", ["timeout_min=2", "timeout_min=3"], "once"),
        ("submitit", ["timeout_min"], "timeout_min=VALUE"),
        ("submitit:local", ["partition=gpu"], "no option 'partition'; known: array_parallelism"),
        ("submitit:local", ["gpus_per_node=99"], "this machine has"),
        ("submitit:local", ["jobs=0"], "jobs=0"),
        ("slurm", [], "no launcher 'slurm'; known: submitit, submitit:local"),
        ("submitit:pbs", [], "no launcher 'submitit:pbs'"),
    ],
)
def test_a_wrong_option_is_refused(
    name: str, texts: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", lambda: 2)
    with pytest.raises((ConfigError, UnknownNameError)) as refused:
        read_launcher(name, texts)
    assert words in str(refused.value)


def test_options_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", lambda: 2)
    texts = [
        "partition=gpu,gpus_per_node=2,timeout_min=240,nodelist=a1,a2",
        "setup=module load x",
        "setup=y",
        "jobs=7",
    ]
    found = read_launcher("submitit", texts)
    assert (found.cluster, found.jobs, found.gpus, found.timeouts) == ("slurm", 7, 2, 3)
    assert found.parameters == {
        "name": "ssleval", "partition": "gpu", "gpus_per_node": 2, "timeout_min": 240, "nodelist": "a1,a2",
        "setup": ["module load x", "y"],
    }  # fmt: skip


def test_gpus_of_this_machine_are_shared_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    assert read_launcher("submitit:local", []).parallel == 4
    launcher = read_launcher("submitit:local", ["gpus_per_node=2"])
    assert launcher.parallel == 2
    with pytest.raises(ConfigError, match="3 at once are 6 GPUs; this machine has 4"):
        read_launcher("submitit:local", ["gpus_per_node=2,array_parallelism=3"])
    show = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    executor = launcher.executor(tmp_path)
    jobs = [launcher.submit_here(executor, [sys.executable, "-c", show], slot) for slot in (0, 1)]
    assert [job.result() for job in jobs] == [0, 0]
    assert [job.paths.stdout.read_text().splitlines()[-3] for job in jobs] == ["2,3", "5,7"]


def test_a_launcher_is_not_started_by_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="not under torchrun"):
        read_launcher("submitit:local", [])


def test_several_gpus_are_a_torchrun() -> None:
    one, four = (Launcher("slurm", {"gpus_per_node": gpus}).command(["run"]) for gpus in (1, 4))
    assert one == [sys.executable, "-m", "ssleval", "run"]
    assert four[:5] == [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    assert four[5:] == ["-m", "ssleval", "run"]


def test_without_submitit_one_line_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setitem(sys.modules, "submitit", None)
    code, out, err = cli("run", "--model", "pixels", "--launcher", "submitit:local")
    assert (code, out) == (2, "")
    assert err == "ssleval: --launcher submitit: needs the submitit library; pip install 'ssleval[cluster]'\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--launch", "jobs=2"], "--launch needs --launcher"),
        (["--launcher", "submitit:local", "--part", "1/2"], "--launch jobs=N"),
        (["--launcher", "submitit:local", "--force"], "begin anew"),
        (["--launcher", "submitit:local", "--dataset", "folder:gone"], "gone"),
        (["--launcher", "submitit:local", "--task", "depth", "--dataset", "digits"], "depth on digits"),
    ],
)
def test_a_faulty_request_submits_nothing(cli: Cli, options: list[str], words: str) -> None:  # noqa: F811
    code, out, err = cli("run", "--model", "pixels", *options)
    assert (code, out, words in err) == (2, "", True)
    assert not (cli.folder / "results").exists()


def test_a_job_has_the_words_of_the_command_without_those_of_the_launcher(
    cli: Cli,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[str]] = []

    def launched(*arguments: Any) -> list[Any]:
        seen.append(arguments[4])
        return []

    monkeypatch.setattr(launch, "launch", launched)
    cli(
        "run", "--model", "pixels", "--launcher=submitit:local", "--seed", "0", "--launch", "jobs=2",
        "--results", "r", "--launch=timeout_min=9", "--num_workers", "0",
    )  # fmt: skip
    assert seen == [[
        "run", "--model", "pixels", "--seed", "0", "--results", "r", "--num_workers", "0",
        "--json", f"--results={cli.folder / 'r'}", f"--cache={cli.folder / 'cache'}",
    ]]  # fmt: skip


# What is submitted


def test_a_job_is_pickled_without_this_package(tmp_path: Path) -> None:
    executors._executors()
    job = cloudpickle.dumps(submitit.helpers.DelayedSubmission(executors.Command(), ["true"]))
    # Where the checkout is not: the node has submitit, and whatever the command line names.
    check = "import pickle, sys; sys.modules['ssleval'] = None; print(pickle.load(sys.stdin.buffer).result())"
    node = [sys.executable, "-c", check]
    done = subprocess.run(node, input=job, capture_output=True, cwd=tmp_path, check=True)
    assert done.stdout == b"0\n"


SBATCH = """#!{python}
import pathlib, re, subprocess, sys
script = pathlib.Path(sys.argv[-1])
pathlib.Path("submitted").mkdir(exist_ok=True)
number = 70 + len(list(pathlib.Path("submitted").iterdir()))
pathlib.Path(f"submitted/{{number}}").write_text(script.read_text())
last = re.search(r"--array=0-(\\d+)", script.read_text())
if not pathlib.Path("held").exists():
    for task in range(int(last[1]) + 1) if last else [None]:
        env = dict(SLURM_JOB_ID=str(number), SLURM_PROCID="0")
        if last:
            env |= dict(SLURM_ARRAY_JOB_ID=str(number), SLURM_ARRAY_TASK_ID=str(task))
        words = [f"{{name}}={{value}}" for name, value in env.items()]
        subprocess.Popen(["env", *words, "bash", script], stdout=-3, stderr=-3)
print(f"Submitted batch job {{number}}")
"""
SRUN = """#!{python}
import os, sys
words, ids = sys.argv[1:], [os.environ.get(f"SLURM_ARRAY_{{one}}_ID", "") for one in ("JOB", "TASK")]
for place, option in ((1, "--output"), (2, "--error")):
    path = words[words.index(option) + 1].replace("%A", ids[0]).replace("%a", ids[1])
    path = path.replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), place)
command = words[words.index("--error") + 2 :]
os.execvp(command[0], command)
"""
SACCT = """#!{python}
import pathlib
print("JobID|State|NodeList")
for line in pathlib.Path("states").read_text().splitlines():
    print(line + "|a1")
"""


@pytest.fixture
def slurm(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """Return a launcher of a cluster that is three programs on PATH."""
    programs = stand_in / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (programs / name).write_text(text.format(python=sys.executable))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (stand_in / "states").write_text("")
    submitit.SlurmJob.watcher.clear()
    texts = ["partition=gpu,gpus_per_node=1,timeout_min=240,mem_gb=32,array_parallelism=8"]
    return read_launcher("submitit", texts)


def test_slurm_gets_one_array_whose_jobs_are_watched(slurm: Launcher, stand_in: Path) -> None:
    (stand_in / "how").write_text("2 refused\n")
    (stand_in / "made").mkdir()
    for number in (1, 3):
        (stand_in / "made" / f"{number}.json").touch()
    found, failures, said = run_all(stand_in, slurm)
    assert sorted(map(str, found)) == ["made/1.json", "made/3.json"]
    (failure,) = failures
    assert failure.startswith(
        "random:vit_tiny on digits: the job failed: broken.png: cannot be decoded; log: "
    )
    assert Path(failure.rpartition(" ")[2]).read_text().endswith("cannot be decoded\n")
    (folder,) = (stand_in / "results" / "_jobs").iterdir()
    assert said[0] == f"3 jobs to run; logs in {folder}"
    (script,) = (stand_in / "submitted").iterdir()
    lines = script.read_text().splitlines()
    assert {
        "#SBATCH --array=0-2%3", "#SBATCH --gpus-per-node=1", "#SBATCH --partition=gpu", "#SBATCH --time=240",
        "#SBATCH --mem=32GB", "#SBATCH --job-name=ssleval", "#SBATCH --open-mode=append",
        "#SBATCH --signal=USR2@90",
    } <= {*lines}  # fmt: skip
    (run,) = [line for line in lines if line.startswith("srun ")]
    assert run.endswith(f"{sys.executable} -u -m submitit.core._submit {folder}")
    delayed = [pickle.loads((folder / f"70_{task}_submitted.pkl").read_bytes()) for task in range(3)]
    assert [one.args[0][-1] for one in delayed] == ["--part=1/3", "--part=2/3", "--part=3/3"]
    assert all(isinstance(word, str) for one in delayed for word in one.args[0])


def test_a_rerun_watches_what_is_still_queued_and_submits_the_rest(slurm: Launcher, stand_in: Path) -> None:
    (stand_in / "held").touch()
    first = launch._Launch(slurm, stand_in / "results", stand_in / "cache", [].append)
    commands = {
        part: slurm.command(["run", f"--part={part}"]) for part in map(read_part, ("1/3", "2/3", "3/3"))
    }
    executor = slurm.executor(stand_in / "results" / "_jobs" / "earlier")
    assert first._submit(executor, list(commands), commands) == []
    # One waits, one was cancelled, of one nobody knows.
    (stand_in / "states").write_text("70_0|PENDING\n70_1|CANCELLED by 0\n")
    said: list[str] = []
    again = launch._Launch(slurm, stand_in / "results", stand_in / "cache", said.append)
    assert again._attach(commands) == [Part(2, 3), Part(3, 3)]
    assert {str(part): job.job_id for part, job in again.running.items()} == {"1/3": "70_0"}
    again._leave()
    assert "1 job of an earlier call" in said[0]
    assert "`scancel 70`" in said[1]


def test_what_slurm_refuses_is_one_line(slurm: Launcher, stand_in: Path) -> None:
    (stand_in / "bin" / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition: gpu' >&2\nexit 1\n"
    )
    with pytest.raises(ConfigError, match=r"sbatch refused the jobs: .*invalid partition: gpu"):
        run_all(stand_in, slurm)


# How jobs end


def test_each_job_ends_by_itself_and_every_failure_is_named(stand_in: Path) -> None:
    (stand_in / "made").mkdir()
    (stand_in / "made" / "3.json").touch()
    (stand_in / "how").write_text("1 killed\n2 lost\n")
    found, failures, _ = run_all(stand_in, read_launcher("submitit:local", ["array_parallelism=3"]))
    assert list(map(str, found)) == ["made/3.json"]
    assert sorted(line.partition("; log: ")[0] for line in failures) == [
        "random:vit_small on digits: the job failed: killed by SIGKILL, as where memory is short",
        "random:vit_tiny on digits: the job failed: it ended without an exit code, FINISHED",
    ]
    assert all(Path(line.partition("; log: ")[2]).exists() for line in failures)


def test_a_preempted_job_is_interrupted_and_goes_on(stand_in: Path) -> None:
    (stand_in / "how").write_text("1 preempted\n")
    launcher = read_launcher("submitit:local", ["array_parallelism=3,jobs=1"])
    started = time.monotonic()
    _, failures, _ = run_all(stand_in, launcher)
    assert (failures, (stand_in / "ran-1").read_text()) == ([], "xx")
    # The first attempt was over before the second began.
    assert (stand_in / "interrupted").exists()
    assert time.monotonic() - started < 50


def test_jobs_on_this_machine_end_with_the_call(stand_in: Path) -> None:
    (stand_in / "how").write_text("1 preempted\n")
    launcher = read_launcher("submitit:local", [])
    job = launcher.submit_here(
        launcher.executor(stand_in / "jobs"),
        [sys.executable, "-c", LONG],
        0,
    )
    one = launch._Launch(launcher, stand_in, stand_in, [].append, {Part(1, 1): job})
    while not (job.paths.stdout.exists() and "\n7\n" in job.paths.stdout.read_text()):
        time.sleep(0.05)
    one._leave()
    started = time.monotonic()
    while not job.done():
        time.sleep(0.05)
    assert time.monotonic() - started < 30
    # Not on the user's terminal.
    assert "KeyboardInterrupt" in (stand_in / "jobs" / "submitit.err").read_text()


def test_exit_codes_and_signals_of_a_command() -> None:
    assert Command()([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert Command()([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == -signal.SIGKILL
    # A time-out is for the process around it, which ends it in its own way.
    assert (
        Command()([sys.executable, "-c", "import os; os.kill(os.getpid(), 12); os.kill(os.getpid(), 15)"])
        == 0
    )


def test_a_job_that_ran_out_of_time_too_often_says_so() -> None:
    class Ended:
        def exception(self) -> Exception:
            # As submitit words it, with the trace of the job.
            return RuntimeError("trace:\n  x\nJob not requeued because: timed-out too many times.\n--")

    assert executors.fault_of(Ended()) == "not requeued because: timed-out too many times."


# Resume


def test_what_is_stored_is_not_submitted_again(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    run = [
        "run",
        "--model",
        "pixels",
        "--task",
        "knn",
        "--set",
        "knn.ks=1",
        "--limit",
        "9",
        "--dataset",
        "digits",
    ]
    stored = json.loads(cli(*run, "--json")[1])

    def refused(*_: Any) -> list[Any]:
        pytest.fail("submitted")

    monkeypatch.setattr(Launcher, "submit_here", refused)
    code, out, _ = cli(*run, "--json", "--launcher", "submitit:local")
    again = json.loads(out)
    assert (code, again["key"], again["cached"]) == (0, stored["key"], True)
    assert again["metrics"] == stored["metrics"]


def test_another_setting_is_another_result_and_is_submitted(stand_in: Path, cli: Cli) -> None:  # noqa: F811
    run = ["run", "--model", "pixels", "--task", "knn", "--limit", "9", "--dataset", "digits", "--set"]
    cli(*run, "knn.ks=1")
    assert cli(*run, "knn.ks=2", "--launcher", "submitit:local")[0] == 0
    assert (stand_in / "ran-1").read_text() == "x"


def test_progress_names_what_is_extracted(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "SAID_EVERY", 0)

    def listed(_: Path) -> list[Any]:
        return [entry]

    monkeypatch.setattr(launch.cache, "info", listed)
    entry = launch.cache.Entry("k", "pixels", "digits", "train", 9, {"pooled": 0.25}, 1, 0.0)
    _, _, said = run_all(stand_in, read_launcher("submitit:local", ["array_parallelism=3"]))
    # How many are done by the first line, the machine decides.
    line = re.compile(r"[012] of 3 jobs done, 0 failed, [123] submitted; pixels digits/train 25%")
    assert any(map(line.fullmatch, said))
