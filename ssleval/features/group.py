"""The group of processes that `torchrun` describes: joined once, left when Python ends.

Messages between its processes go by gloo, in a group of their own that waits for ever: while the first
process evaluates, the others wait for hours. One that has died is noticed by its closed connections.
"""

import atexit
import gc
import json
import os
import socket
import time
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import torch
from torch import distributed
from torch._C._distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from ssleval import __version__
from ssleval.errors import ConfigError

MASTER_SECONDS = 60
"""How long the address that `torchrun` names is tried."""
JOIN_SECONDS = 300
"""How long processes wait for each other at the start."""
LEAVE_SECONDS = 5
"""How long the others wait at the end for the first process to have said what it has to say."""
_FOR_EVER = timedelta(days=365)

_VARIABLES = ("RANK", "MASTER_ADDR", "MASTER_PORT")


class PeerError(ConnectionError):
    """Another process of the group has ended, so that this one cannot go on either."""


class Group:
    """The joined processes, and how they send each other messages."""

    def __init__(self, store: Store | None) -> None:
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        self.whole = distributed.group.WORLD
        self._store = store
        self._messages: Any = distributed.new_group(backend="gloo", timeout=_FOR_EVER)
        self._hosts = [""] * self.world
        self._hosts = self.gather(socket.gethostname())

    def gather(self, message: Any) -> list[Any]:
        """Return the messages of all processes, by rank, once each has sent one.

        Raises:
            PeerError: a process has died; the message says which.
        """
        messages: list[Any] = [None] * self.world
        try:
            distributed.all_gather_object(messages, message, group=self._messages)
        except RuntimeError as error:
            reason = str(error)[:200]
        else:
            return messages
        # Not from the error of torch, whose frames would keep the group alive.
        raise self.lost() or PeerError(f"the processes lost each other: {reason}")

    def lost(self) -> PeerError | None:
        """Return what to say of processes that have died, None where all answer."""
        broken = [rank for rank in range(self.world) if rank != self.rank and not self._answers(rank)]
        if not broken:
            return None
        names = " and ".join(f"rank {rank} on {self._hosts[rank]}" for rank in self._first_to_die(broken))
        told = PeerError(
            f"{names} ended before the work of all was done; finished work is kept, the same command goes on "
            "from there"
        )
        # One of those that are left says it.
        alive = sorted({*range(self.world)} - {*broken})
        vars(told).update(agreed=True, silent=self.rank != alive[0])
        return told

    def follow_leader(self) -> None:
        """Wait, for some seconds, until the first process leaves, which may have something to say yet.

        `torchrun` ends all processes once one of them has failed.
        """
        until = time.monotonic() + LEAVE_SECONDS
        with suppress(RuntimeError):
            if self.rank == 0 and self._store is not None:
                self._store.set("ssleval/left", "")
            while _agent_keeps_store() and self._store is not None and time.monotonic() < until:
                if self._store.check(["ssleval/left"]):
                    return
                time.sleep(0.02)

    def forget(self) -> None:
        """Let go of what torch has for the group: what still refers to this object cannot keep it alive."""
        self.whole = self._messages = self._store = None

    def _answers(self, rank: int) -> bool:
        try:
            distributed.isend(torch.zeros(1), rank, group=self._messages)
        except RuntimeError:
            return False
        return True

    def _first_to_die(self, broken: list[int]) -> list[int]:
        """Return which of the ``broken`` ranks died by themselves: one that lost another ends as well."""
        # A store that the first process keeps ends with it, and torch tells of it at length.
        if self._store is None or (0 in broken and not _agent_keeps_store()):
            return broken
        with suppress(RuntimeError):
            self._store.set(f"ssleval/lost/{self.rank}", "")
            return [rank for rank in broken if not self._store.check([f"ssleval/lost/{rank}"])] or broken
        return broken


_joined: list[Group] = []
"""At most one: a group that others began may be followed by another."""


def described() -> bool:
    """Return whether the environment describes a group of several processes."""
    return _number("WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"), 1, 1 << 20) > 1


def current_group() -> Group:
    """Return the group of this process, which is joined where it is only described."""
    if _joined and _joined[0].whole is distributed.group.WORLD:
        return _joined[0]
    store = None if distributed.is_initialized() else join()
    _joined[:] = [Group(store)]
    return _joined[0]


def join() -> Store:
    """Join the group that the environment describes, and refuse processes that do not fit together."""
    world, address, port = int(os.environ["WORLD_SIZE"]), os.environ.get("MASTER_ADDR", ""), 0
    for name in _VARIABLES:
        if not os.environ.get(name):
            raise ConfigError(
                f"WORLD_SIZE={world} describes a group of processes, but {name} is not set; start them with "
                f"torchrun --nproc-per-node {world} -m ssleval ..., or unset WORLD_SIZE"
            )
    rank = _number("RANK", os.environ["RANK"], 0, world - 1)
    port = _number("MASTER_PORT", os.environ["MASTER_PORT"], 1, 65_535)
    if rank or _agent_keeps_store():
        _reach(address, port)
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))
        compare(store, rank, world)
        # Numbers on the CPU go by gloo in either case; NCCL joins when the first tensor of a GPU does.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0][:300]
        raise ConfigError(
            f"rank {rank} of {world}: the group at {address}:{port} could not be joined: {reason}"
        ) from error
    atexit.register(_leave)
    return store


def _agent_keeps_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _number(name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        raise ConfigError(f"{name}={text}: expected a number from {least} to {most}")
    return int(text)


def _reach(address: str, port: int) -> None:
    """Wait until the address answers; torch itself would tell of every try."""
    until = time.monotonic() + MASTER_SECONDS
    while True:
        try:
            with socket.create_connection((address, port), timeout=max(1.0, until - time.monotonic())):
                return
        except OSError as error:
            if time.monotonic() > until:
                raise ConfigError(
                    f"MASTER_ADDR={address}, MASTER_PORT={port}: no answer within {MASTER_SECONDS} s "
                    f"({error.strerror or error}); start the process with RANK=0 there, or mend the address"
                ) from error
        time.sleep(0.2)


def compare(store: Store, rank: int, world: int) -> None:
    """Refuse a group whose processes are not all there, or not all of the same software."""
    if store.add(f"ssleval/rank/{rank}", 1) > 1:
        raise ConfigError(f"RANK={rank}: two processes have this number; give each its own")
    ours = {name: version(name) for name in ("torch", "pillow")}
    ours |= {"ssleval": __version__, "WORLD_SIZE": str(world)}
    store.set(f"ssleval/software/{rank}", json.dumps(ours))
    until = time.monotonic() + JOIN_SECONDS
    for other in range(world):
        if not _waited(store, f"ssleval/software/{other}", until - time.monotonic()):
            raise ConfigError(f"rank {other} of {world} did not come within {JOIN_SECONDS} s; start them all")
        theirs = json.loads(store.get(f"ssleval/software/{other}"))
        for name, own in ours.items():
            if theirs.get(name) != own:
                raise ConfigError(
                    f"rank {other} has {name} {theirs.get(name)}, this process {own}; give all processes the "
                    "same"
                )


def _waited(store: Store, name: str, seconds: float) -> bool:
    try:
        store.wait([name], timedelta(seconds=max(1.0, seconds)))
    except distributed.DistStoreError:
        return False
    return True


def _leave() -> None:
    # While the interpreter still runs: gloo's threads drop tensors, which needs Python, and a group that is
    # alive when the interpreter ends can abort the process after its work is done.
    for group in _joined:
        group.follow_leader()
        group.forget()
    _joined.clear()
    if distributed.is_initialized():
        distributed.destroy_process_group()
    gc.collect()
