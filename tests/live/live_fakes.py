"""A small network with all that training must not lose, as users write them. Also read as a model file."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ssleval
from ssleval.core.backbone import Backbone
from ssleval.live import Evaluator

WRAP: dict[str, Any] = {"patch_size": 8, "mean": 0.5, "std": 0.25, "image_size": 32}
FAST: dict[str, Any] = {"limit": 60, "settings": {"knn": {"ks": (5, 1), "preprocessing": "card"}}}


class Net(nn.Module):
    """A feature map; batch norm, dropout, a frozen part and a buffer that counts every call."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 12, 4, 4)
        self.norm = nn.BatchNorm2d(12)
        self.drop = nn.Dropout(0.3)
        self.frozen = nn.Sequential(nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12))
        self.last = nn.Conv2d(12, 16, 2, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.calls: Tensor
        self.frozen.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.last(self.frozen(self.drop(torch.relu(self.norm(self.stem(images))))))


def trained_state(net: Net, steps: int = 3) -> None:
    """Take some steps of a training, which end between a backward pass and an update."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        net(torch.randn(8, 3, 32, 32)).square().mean().backward()
        optimiser.step()


def saved() -> Backbone:
    """Return the network in the file that a variable names, as ``live_fakes.py:saved``."""
    net = Net()
    net.load_state_dict(torch.load(os.environ["LIVE_STATE"], weights_only=True))
    return ssleval.wrap(net, **WRAP)


def knn(jsonl: Path | None = None, **options: Any) -> Evaluator:
    """Return an evaluator of k-NN on a few digits."""
    chosen: dict[str, Any] = {"wrap": WRAP, **FAST, **options}
    return Evaluator("knn", "digits", jsonl=jsonl, **chosen)
