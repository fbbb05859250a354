"""What the tests of the store run in processes of their own, which they kill or measure."""

import contextlib
import multiprocessing
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from torch import Tensor, distributed

from ssleval.core.backbone import Features
from ssleval.errors import ContractError, DataError, SslevalError
from ssleval.features import FeatureSource, PeerError, current_shard, watching_peers
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


def start(target: Callable[..., None], *arguments: object) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ssleval.features"])
    process = context.Process(target=_strict, args=(target, *arguments))
    process.start()
    return process


def finish(*processes: ForkServerProcess, codes: Sequence[int] | None = None) -> None:
    for process, code in zip(processes, codes or [0] * len(processes), strict=True):
        process.join(timeout=60)
        assert process.exitcode == code


def _strict(target: Callable[..., None], *arguments: object) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    target(*arguments)


@contextlib.contextmanager
def said(path: Path) -> Generator[None, None, None]:
    """Collect stderr in a file."""
    with path.open("w", buffering=1) as file, contextlib.redirect_stderr(file):
        yield


class Gated(Tiny):
    """Waits in its third forward pass for a file called ``go``."""

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        while len(self.calls) == 2 and self.log is not None and not self.log.with_name("go").exists():
            time.sleep(0.005)
        return super().extract(images, blocks, norm=norm)


def slow(cache: Path) -> None:
    backbone = Tiny(log=cache / "forwards", delay=0.02)
    request = request_of(dataset_of(split_of(160)), MEAN, PATCHES)
    FeatureSource(backbone, context_of(cache)).prepare([request])


def gated(cache: Path, errors: Path) -> None:
    backbone = Gated(log=cache / "forwards")
    with said(errors):
        FeatureSource(backbone, context_of(cache)).prepare([request_of(dataset_of(split_of(40)), MEAN)])


def shard(cache: Path, rank: int) -> None:
    meet = f"file://{cache}/meet"
    distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    backbone = Tiny()
    source = FeatureSource(backbone, context_of(cache))
    dataset = dataset_of(split_of(22))
    source.prepare([request_of(dataset, MEAN)])
    source.prepare([request_of(dataset, MEAN, PATCHES)])
    rows = 0
    if rank == 0:
        rows = len(source.load(request_of(dataset, MEAN, PATCHES)).rows)
        with contextlib.suppress(ContractError):
            source.load(request_of(dataset, POOLED))
            rows = -1
    calls = len(backbone.calls)
    # One process has another model: under the same key, then under another. All of them must notice.
    backbone.scale = 1.0 + rank
    said = refusal(backbone, cache)
    backbone.forget_hashes()
    said += refusal(backbone, cache)
    distributed.barrier()
    distributed.destroy_process_group()
    (cache / f"rank{rank}").write_text(f"{calls} {rows}")
    (cache / f"refusals{rank}").write_text(said)


def meeting(cache: Path, rank: int, world: int) -> None:
    """Extract 240 images with others, slowly."""
    distributed.init_process_group("gloo", init_method=f"file://{cache}/meet", rank=rank, world_size=world)
    backbone = Tiny(log=cache / "forwards", delay=0.02)
    request = request_of(dataset_of(split_of(240)), MEAN, PATCHES)
    FeatureSource(backbone, context_of(cache)).prepare([request])


def deserted(folder: Path, rank: int) -> None:
    """Let two processes wait for a third, first longer than their group does, then for ever."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
    shard = current_shard()
    distributed.set_timeout(timedelta(seconds=0.5))
    if rank == 2:
        time.sleep(1.5)
    shard.exchange("barrier", None)
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    said = ["waited"]
    try:
        shard.exchange("barrier", None)
    except PeerError as error:
        said += [str(error), str(vars(error)["silent"])]
    # What else waits for a process that has died says the same.
    try:
        with watching_peers():
            distributed.all_reduce(torch.zeros(1))
    except PeerError as error:
        said += [str(error)]
    (folder / f"rank{rank}").write_text("\n".join(said))
    distributed.destroy_process_group()


def refusal(backbone: Tiny, cache: Path) -> str:
    try:
        FeatureSource(backbone, context_of(cache)).prepare([request_of(dataset_of(split_of(22)), MEAN)])
    except SslevalError as error:
        return f"{error}\n"
    return "none\n"


class Wide(Tiny):
    """32 KiB of features an image, for no work."""

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        return Features(images.mean((1, 2, 3))[:, None].expand(-1, 8192))


def memory(cache: Path, n: int) -> None:
    backbone = Wide(replace(CARD, pooled_dim=8192))
    request = request_of(dataset_of(split_of(n, Noise((16, 16)))), POOLED)
    FeatureSource(backbone, context_of(cache, batch_size=32)).prepare([request])
    (cache / f"kib{n}").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def full(cache: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        slow(cache)
    except DataError as error:
        # The limit holds for any file, but this text is short.
        (cache / "error").write_text(str(error))
        os._exit(0)
