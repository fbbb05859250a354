"""Groups of processes that `torchrun` describes."""

import pytest
import torch
from torch import distributed

from ssleval.features import current_shard, shard


@pytest.mark.parametrize(("gpus", "backends"), [(False, "gloo"), (True, "cpu:gloo,cuda:nccl")])
def test_tensors_of_gpus_go_by_nccl_where_there_are_any(
    gpus: bool, backends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(distributed, "init_process_group", joined.append)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    assert current_shard() == shard.Shard(1, 2)
    assert joined == [backends]
