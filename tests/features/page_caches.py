"""Machines that share a network file system, each with a page cache of its own, simulated in one process.

Every machine has a folder, which is what its processes see; the server has another. Opening a file fetches
what others have changed; closing or flushing it sends every page that differs from what was fetched, as a
whole; so does the machine by itself, at random times. Processes are threads of which one runs at a time;
who goes on is drawn whenever one touches a file.
"""

import builtins
import io
import os
import random
import shutil
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

PAGE = 4096


class Killed(BaseException):
    """Ends a process at once: nothing that it does afterwards reaches a file."""


class Server:
    """The files as they are on the server, and how often each has changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.versions: dict[Path, int] = {}
        root.mkdir(parents=True)

    def changed(self, name: Path) -> int:
        self.versions[name] = self.versions.get(name, 0) + 1
        return self.versions[name]


class Machine:
    """One machine's view of the server."""

    def __init__(self, server: Server, root: Path) -> None:
        self.server, self.root = server, root
        self.fetched: dict[Path, bytes] = {}
        self.known: dict[Path, int] = {}
        root.mkdir(parents=True)

    def fetch(self, name: Path) -> None:
        """Bring a file up to date where another machine has changed it."""
        theirs, ours = self.server.root / name, self.root / name
        if theirs.is_dir():
            ours.mkdir(parents=True, exist_ok=True)
        version = self.server.versions.get(name, 0)
        if version == self.known.get(name, 0):
            return
        self.send(name)
        self.known[name] = self.server.versions[name]
        if theirs.is_file():
            self.fetched[name] = theirs.read_bytes()
            ours.parent.mkdir(parents=True, exist_ok=True)
            ours.touch()
            with REAL["open"](ours, "r+b") as file:
                file.write(self.fetched[name])
                file.truncate()
        elif not theirs.exists():
            self.forget(name)

    def send(self, name: Path, pages: Sequence[int] | None = None) -> None:
        """Send pages that differ from what was fetched, whole; all of them where none are named."""
        theirs, ours = self.server.root / name, self.root / name
        if not ours.is_file():
            return
        dirty, content = self.dirty(name), ours.read_bytes()
        new = name not in self.fetched
        shrunk = len(content) < len(self.fetched.get(name, b""))
        if not (new or shrunk or dirty):
            return
        old = bytearray(self.fetched.get(name, b"")[: len(content)].ljust(len(content), b"\0"))
        theirs.parent.mkdir(parents=True, exist_ok=True)
        theirs.touch()
        with REAL["open"](theirs, "r+b") as file:
            if new or shrunk or len(content) > theirs.stat().st_size:
                file.truncate(len(content))
            for page in dirty if pages is None else pages:
                part = slice(page * PAGE, (page + 1) * PAGE)
                file.seek(part.start)
                file.write(content[part])
                old[part] = content[part]
        current = self.known.get(name, 0) == self.server.versions.get(name, 0)
        version = self.server.changed(name)
        if current:
            self.known[name] = version
        self.fetched[name] = bytes(old)

    def dirty(self, name: Path) -> list[int]:
        """Return the pages of a file that differ from what was fetched."""
        path = self.root / name
        if not path.is_file():
            return []
        ours, base = path.read_bytes(), self.fetched.get(name, b"")
        starts = range(0, len(ours), PAGE)
        base = base.ljust(len(ours), b"\0")
        return [start // PAGE for start in starts if ours[start:][:PAGE] != base[start:][:PAGE]]

    def names(self) -> list[Path]:
        found = (Path(folder, name) for folder, _, names in os.walk(self.root) for name in names)
        return sorted(path.relative_to(self.root) for path in found)

    def remove(self, name: Path) -> None:
        """Remove a file here and on the server."""
        (self.server.root / name).unlink(missing_ok=True)
        self.known[name] = self.server.changed(name)
        self.forget(name)

    def forget(self, name: Path) -> None:
        self.fetched.pop(name, None)
        REAL["unlink"](self.root / name) if (self.root / name).exists() else None


REAL: dict[str, Any] = {
    "open": io.open, "pwrite": os.pwrite, "write": os.write, "fsync": os.fsync, "replace": os.replace,
    "unlink": os.unlink, "stat": os.stat, "listdir": os.listdir, "scandir": os.scandir, "mkdir": os.mkdir,
    "rmtree": shutil.rmtree,
}  # fmt: skip


class Cluster:
    """Machines on one server, and the processes that run on them, in turns."""

    def __init__(self, folder: Path, machines: int, seed: int) -> None:
        self.server = Server(folder / "server")
        self.machines = [Machine(self.server, folder / f"machine{index}") for index in range(machines)]
        self.draw = random.Random(seed)
        self.steps = 0
        self.deaths: dict[int, int] = {}
        """Step after which a process is dead, by rank."""
        self.mine = threading.local()
        self.turn: dict[int, threading.Semaphore] = {}
        self.live: list[int] = []
        self.gone = False
        self.messages: list[dict[int, Any]] = []

    def run(self, works: Sequence[Callable[[], object]]) -> list[BaseException | None]:
        """Run one process for each function, rank by rank; return what each ended with."""
        ends: list[BaseException | None] = [None] * len(works)
        self.turn = {rank: threading.Semaphore(0) for rank in range(len(works))}
        self.live, self.gone, self.messages = list(range(len(works))), False, []

        def work(rank: int) -> None:
            self.turn[rank].acquire()
            self.mine.rank, self.mine.calls = rank, 0
            try:
                works[rank]()
            except BaseException as error:
                ends[rank] = error
            self.gone |= ends[rank] is not None
            self.live.remove(rank)
            if self.live:
                self.turn[self.draw.choice(self.live)].release()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in self.live]
        for thread in threads:
            thread.start()
        self.turn[0].release()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        return ends

    @property
    def rank(self) -> int | None:
        return getattr(self.mine, "rank", None)

    def step(self) -> None:
        """Let another process go on, and machines write some pages back; a process that is dead ends here."""
        rank = self.rank
        if rank is None:
            return
        self.steps += 1
        if self.draw.random() < 0.3:
            self.write_back(self.draw.choice(self.machines))
        following = self.draw.choice(self.live)
        if following != rank:
            self.turn[following].release()
            self.turn[rank].acquire()
        if self.steps >= self.deaths.get(rank, self.steps + 1):
            raise Killed

    def write_back(self, machine: Machine) -> None:
        """Send one page that a machine has changed."""
        with self.within():
            pages = [(name, page) for name in machine.names() for page in machine.dirty(name)]
            if pages:
                name, page = self.draw.choice(pages)
                machine.send(name, [page])

    def send_all(self, machine: Machine) -> None:
        with self.within():
            for name in machine.names():
                machine.send(name)

    def lose_power(self, machine: Machine) -> None:
        """Forget all that a machine has not sent."""
        with self.within():
            for name in machine.names():
                machine.forget(name)
                machine.known.pop(name, None)

    def gather(self, message: Any) -> list[Any]:
        """Return what all processes give in this exchange, by rank."""
        rank = self.rank
        assert rank is not None
        place, self.mine.calls = self.mine.calls, self.mine.calls + 1
        self.messages += [{} for _ in range(place + 1 - len(self.messages))]
        self.messages[place][rank] = message
        while len(self.messages[place]) < len(self.turn):
            if self.gone:
                raise ConnectionError("another process is gone")
            self.step()
        return [self.messages[place][other] for other in sorted(self.messages[place])]

    @contextmanager
    def within(self) -> Generator[None]:
        """Let what this class does itself with files pass."""
        self.mine.within = True
        try:
            yield
        finally:
            self.mine.within = False

    def place(self, path: object) -> tuple[Machine, Path] | None:
        """Return the machine that a path belongs to, and the name of the file there."""
        if not isinstance(path, str | os.PathLike) or getattr(self.mine, "within", False):
            return None
        for machine in self.machines:
            if Path(path).is_relative_to(machine.root):
                return machine, Path(path).relative_to(machine.root)
        return None

    def of_descriptor(self, descriptor: int) -> tuple[Machine, Path] | None:
        return self.place(Path(f"/proc/self/fd/{descriptor}").readlink())

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Have files of the machines, and numbers between processes, go through here."""
        for name in ("pwrite", "write", "fsync", "replace", "unlink", "mkdir"):
            patch.setattr(os, name, getattr(self, name))
        for name in ("stat", "listdir", "scandir"):
            patch.setattr(os, name, self.fetching(REAL[name], children=name != "stat"))
        for module in (io, builtins):
            patch.setattr(module, "open", self.open)
        patch.setattr(shutil, "rmtree", self.rmtree)
        patch.setattr(distributed, "all_reduce", self.all_reduce)
        patch.setattr(distributed, "broadcast", self.broadcast)

    def all_reduce(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self.gather(tensor.clone())).sum(0))

    def broadcast(self, tensor: Tensor, _: int) -> None:
        tensor.copy_(self.gather(tensor.clone())[0])

    def fetching(self, call: Callable[..., Any], *, children: bool) -> Callable[..., Any]:
        def fetched(path: Any = ".", *rest: Any, **more: Any) -> Any:
            if (place := self.place(path)) and not more.get("dir_fd"):
                machine, name = place
                with self.within():
                    machine.fetch(name)
                    if children:
                        self.fetch_children(machine, name)
            return call(path, *rest, **more)

        return fetched

    def fetch_children(self, machine: Machine, name: Path) -> None:
        folder = self.server.root / name
        there = [name / child.name for child in folder.iterdir()] if folder.is_dir() else []
        for child in {*there, *(child for child in machine.known if child.parent == name)}:
            machine.fetch(child)

    def open(self, file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
        place = self.place(file)
        if place is None:
            return REAL["open"](file, mode, buffering, *rest, **more)
        machine, name = place
        self.step()
        with self.within():
            machine.fetch(name)
        if mode in {"r", "rb"}:
            return REAL["open"](file, mode, buffering, *rest, **more)
        cluster = self

        class Sending(io.FileIO):
            def close(self) -> None:
                if not self.closed:
                    super().close()
                    cluster.step()
                    with cluster.within():
                        machine.send(name)

        raw = Sending(os.fspath(file), mode.replace("b", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, "utf-8")

    def pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        self.step()
        return REAL["pwrite"](descriptor, data, offset)

    def write(self, descriptor: int, data: Any) -> int:
        if self.of_descriptor(descriptor):
            self.step()
        return REAL["write"](descriptor, data)

    def fsync(self, descriptor: int) -> None:
        if place := self.of_descriptor(descriptor):
            self.step()
            with self.within():
                place[0].send(place[1])

    def replace(self, source: Any, target: Any, **more: Any) -> None:
        place = self.place(target)
        if place is None:
            return REAL["replace"](source, target, **more)
        self.step()
        machine, name = place
        with self.within():
            REAL["replace"](source, target)
            machine.remove(Path(source).relative_to(machine.root))
            machine.fetched.pop(name, None)
            machine.send(name)
            machine.known[name] = self.server.versions[name]
        return None

    def unlink(self, path: Any, **more: Any) -> None:
        place = None if more.get("dir_fd") else self.place(path)
        REAL["unlink"](path, **more)
        if place:
            with self.within():
                place[0].remove(place[1])

    def mkdir(self, path: Any, *rest: Any, **more: Any) -> None:
        if place := self.place(path):
            self.step()
            with self.within():
                (self.server.root / place[1]).mkdir(parents=True, exist_ok=True)
        REAL["mkdir"](path, *rest, **more)

    def rmtree(self, path: Any, *rest: Any, **more: Any) -> None:
        place = self.place(path)
        if place:
            self.step()
        with self.within():
            if place:
                self.remove_all(*place)
            REAL["rmtree"](path, *rest, **more)

    def remove_all(self, machine: Machine, name: Path) -> None:
        theirs = self.server.root / name
        there = (Path(folder, child) for folder, _, names in os.walk(theirs) for child in names)
        for child in {path.relative_to(self.server.root) for path in there} | set(machine.names()):
            if child.is_relative_to(name):
                machine.remove(child)
        REAL["rmtree"](theirs, ignore_errors=True)
