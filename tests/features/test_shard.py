"""What processes of a group agree on, and groups that `torchrun` describes."""

import json
import socket
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore

from ssleval.errors import ConfigError, ContractError, DataError, SslevalError
from ssleval.features import FeatureSource, PeerError, current_shard, group
from ssleval.features.shard import Shard, watching_peers
from tests.features.feature_fakes import MEAN, Noise, Tiny, context_of, dataset_of, request_of, split_of
from tests.features.feature_processes import deserted, finish, start
from tests.features.rank_threads import Meeting, in_ranks

HOST = socket.gethostname()


def failing_in(rank: int, error: Exception) -> Callable[[Shard], str]:
    def work(shard: Shard) -> str:
        with shard.agreed("work"):
            if shard.rank == rank:
                raise error
        return "done"

    return work


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_an_error_of_one_is_raised_in_all_and_said_once(rank: int) -> None:
    errors = in_ranks(3, failing_in(rank, DataError("photo.jpg: truncated")))
    assert [type(error) for error in errors] == [DataError] * 3
    text = f"rank {rank} on {HOST}: photo.jpg: truncated" if rank else "photo.jpg: truncated"
    assert [str(error) for error in errors] == [text] * 3
    assert [vars(error)["silent"] for error in errors] == [False, True, True]


def test_a_fault_of_one_ends_all() -> None:
    own, *others = in_ranks(3, failing_in(0, KeyError("typo")))
    assert isinstance(own, KeyError)
    assert [type(error) for error in others] == [PeerError] * 2
    assert "KeyError: 'typo'" in str(others[0])
    assert not any(isinstance(error, SslevalError) for error in (own, *others))
    # Nobody goes on, also where another process has an error that it could go on after.
    faults = {0: DataError("photo.jpg: truncated"), 1: KeyError("typo")}
    both = in_ranks(2, lambda shard: failing_in(shard.rank, faults[shard.rank])(shard))
    assert [type(error) for error in both] == [PeerError, KeyError]


def test_an_error_is_told_once_however_deep_it_arises() -> None:
    def work(shard: Shard) -> None:
        with shard.agreed("outer"), shard.agreed("inner"):
            if shard.rank == 1:
                # Others are at the end of this, or in the middle.
                raise DataError("deep")
            shard.exchange("middle", 0)

    meeting = Meeting(2)
    assert [type(error) for error in in_ranks(2, work, meeting)] == [DataError, DataError]
    assert len(meeting.points) == 1


def test_processes_that_do_different_things_are_told_not_left_waiting() -> None:
    errors = in_ranks(2, lambda shard: shard.exchange(f"step {shard.rank}", 0))
    assert [type(error) for error in errors] == [ContractError, ContractError]
    assert "rank 0: step 0, rank 1: step 1" in str(errors[0])


def test_other_facts_than_those_of_the_first_are_refused() -> None:
    def work(shard: Shard) -> None:
        shard.same("options", {"models": "a", "limit": 8 if shard.rank == 2 else 4})

    errors = in_ranks(3, work)
    assert {str(error) for error in errors} == {
        f"options: rank 2 on {HOST} has limit 8, rank 0 has 4; give all processes the same"
    }
    assert in_ranks(3, lambda shard: shard.same("options", {"limit": 4})) == [None] * 3


@pytest.mark.parametrize("world", [1, 2, 3])
def test_items_are_shared_and_come_in_order(world: int) -> None:
    done: dict[int, list[int]] = {}

    def work(shard: Shard) -> list[int]:
        def square(item: int) -> int:
            done.setdefault(shard.rank, []).append(item)
            return item**2

        return list(shard.shared("squares", range(7), square))

    assert in_ranks(world, work) == [[0, 1, 4, 9, 16, 25, 36]] * world
    assert done == {rank: list(range(rank, 7, world)) for rank in range(world)}


def test_what_the_leader_makes_is_made_there_alone() -> None:
    made: list[int] = []

    def work(shard: Shard) -> str:
        return shard.from_leader("name", lambda: made.append(shard.rank) or "made")

    assert in_ranks(3, work) == ["made"] * 3
    assert made == [0]


def test_a_broken_image_of_one_share_ends_the_pass_in_all(tmp_path: Path) -> None:
    """Batches of four: image 6 is in the second, which rank 1 takes."""

    # Made here: threads would draw from one generator.
    models = Tiny(), Tiny()

    def work(shard: Shard) -> int:
        source = FeatureSource(models[shard.rank], context_of(tmp_path))
        whole, broken = dataset_of(split_of(12)), dataset_of(split_of(12, Noise(corrupt=(6,)), "g"), "holes")
        with pytest.raises(DataError, match=r"image_6\.jpg: truncated; --skip-corrupt"):
            source.prepare([request_of(broken, MEAN)])
        source.prepare([request_of(whole, MEAN)])
        return sum(part.images for part in source.counts.values())

    assert in_ranks(2, work) == [12, 12]


def described(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "WORLD_SIZE=2 describes a group of processes, but RANK is not set; start them with torchrun"),
        ({"RANK": "1"}, "MASTER_ADDR is not set"),
        (
            {"RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "RANK=2: expected a number from 0 to 1",
        ),
        ({"RANK": "-1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK=-1: expected"),
        ({"RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"}, "MASTER_PORT=x: expected"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: expected a number from 1"),
        ({"RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, r"no answer within 0\.1 s \("),
    ],
)
def test_a_group_that_cannot_be_joined_is_one_line(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    described(monkeypatch, **variables)
    monkeypatch.setattr(group, "MASTER_SECONDS", 0.1)
    with pytest.raises(ConfigError, match=said):
        current_shard()


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    described(monkeypatch, WORLD_SIZE="1")
    assert current_shard() == Shard()


def test_ranks_of_other_software_or_that_do_not_come_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HashStore()
    monkeypatch.setattr(group, "JOIN_SECONDS", 0)
    with pytest.raises(ConfigError, match="rank 1 of 2 did not come within 0 s"):
        group.compare(store, 0, 2)
    ours = json.loads(store.get("ssleval/software/0"))
    assert ours["torch"] == version("torch")
    with pytest.raises(ConfigError, match="RANK=0: two processes have this number"):
        group.compare(store, 0, 2)
    store.delete_key("ssleval/rank/0")
    store.set("ssleval/software/1", json.dumps({**ours, "torch": "2.0"}))
    with pytest.raises(ConfigError, match=f"rank 1 has torch 2.0, this process {version('torch')}"):
        group.compare(store, 0, 2)


@pytest.mark.parametrize(("gpus", "backends"), [(False, "gloo"), (True, "cpu:gloo,cuda:nccl")])
def test_tensors_of_gpus_go_by_nccl_where_there_are_any(
    gpus: bool, backends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[str] = []

    def met(*_: object, **__: object) -> Iterator[tuple[HashStore, int, int]]:
        return iter([(HashStore(), 0, 2)])

    def noted(backend: str, **_: object) -> None:
        joined.append(backend)

    def alike(*_: object) -> None:
        return None

    described(monkeypatch, RANK="0", MASTER_ADDR="localhost", MASTER_PORT="1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(group, "rendezvous", met)
    monkeypatch.setattr(distributed, "init_process_group", noted)
    monkeypatch.setattr(group, "compare", alike)
    group.join()
    assert joined == [backends]


def test_the_others_wait_longer_than_the_group_and_say_who_died(tmp_path: Path) -> None:
    finish(*[start(deserted, tmp_path, rank) for rank in range(3)], codes=(0, 0, -9))
    first, second = ((tmp_path / f"rank{rank}").read_text().splitlines() for rank in range(2))
    assert first[0] == second[0] == "waited"
    assert first[1].startswith(
        f"rank 2 on {HOST} ended before the work of all was done; finished work is kept"
    )
    # The leader says it.
    assert (first[2], second[2]) == ("False", "True")
    # A group of others has no store that says which of two that are gone died first.
    assert all("rank 2 on" in line for line in (first[3], second[3]))


def test_errors_of_work_that_no_peer_caused_are_raised_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), watching_peers():
        raise RuntimeError("shapes")
