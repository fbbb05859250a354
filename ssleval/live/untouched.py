"""A module in training, borrowed: after the block it is as it was, and so are all random numbers to come."""

import random
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.backends import cuda


@contextmanager
def untouched(module: nn.Module) -> Generator[None]:
    """Let modes, buffers and random states change inside; before leaving, make them what they were.

    Inside, numbers are computed as outside of any training: without autocast, without TF32 in products of
    matrices, with gradients where a head asks for them.
    """
    modes = {part: part.training for part in module.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    mode = module.training
    try:
        with _random_states(), _usual_numbers():
            yield
    finally:
        # Overridden methods may do more than set the attribute, such as take adapters out of weights.
        module.train(mode)
        for part, own in modes.items():
            part.training = own
        with torch.no_grad():
            for buffer, before in buffers:
                # Writing counts as a change for a backward pass that is still to come.
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


@contextmanager
def _random_states() -> Generator[None]:
    ours, numpys, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cudas = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    apples = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
        torch.set_rng_state(torchs)
        if cudas is not None:
            torch.cuda.set_rng_state_all(cudas)
        else:
            # A seed waits until CUDA is used first: that of a task would take the place of the loop's.
            torch.cuda.manual_seed_all(torch.initial_seed())
        if apples is not None:
            torch.mps.set_rng_state(apples)


@contextmanager
def _usual_numbers() -> Generator[None]:
    mkldnn: Any = import_module("torch.backends.mkldnn")
    places: tuple[Any, ...] = (cuda.matmul, mkldnn.matmul)
    before = [place.fp32_precision for place in places]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        for place, precision in zip(places, before, strict=True):
            if precision not in {"none", "ieee"}:
                stack.callback(setattr, place, "fp32_precision", precision)
                place.fp32_precision = "ieee"
        yield
