"""The training of all attentive probes of a grid at once, on tokens that are read once for all of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssleval.core import Context, FeatureTable, Readout
from ssleval.core.batches import batches, table_rows
from ssleval.core.stated import stated
from ssleval.errors import ContractError
from ssleval.heads.attentive.blocks import JepaProbes
from ssleval.heads.attentive.lars import Lars
from ssleval.heads.attentive.pooling import AttentionPool, EfficientProbing
from ssleval.heads.attentive.recipes import Head, Recipe

Reader: TypeAlias = Callable[[Int[np.ndarray, " b"]], Float[Tensor, "b n d"]]
"""Reads float32 tokens of images by index, from wherever they are stored."""

Judged: TypeAlias = tuple[FeatureTable, Bool[np.ndarray, "_"]]
"""A labelled table, and which of its rows are classified."""

Fits: TypeAlias = Callable[
    [Bool[np.ndarray, " n"], Sequence[tuple[Any, Bool[np.ndarray, "_"]]]],
    list[Shaped[np.ndarray, "_ candidates"]],
]
"""Fits on some rows of the training split; returns what candidates have `stated` of some of each set."""

_CHUNK = 128


@dataclass(frozen=True, slots=True)
class AttentiveFit:
    """How the probes of a recipe are trained, ready for any images."""

    protocol: str
    recipe: Recipe
    heads: tuple[Head, ...]
    queries: int
    iterations: int
    batch_size: int
    stages: int
    readouts: tuple[Readout, ...]
    num_classes: int
    context: Context

    def tried_and_final(
        self,
        fits: Fits,
        held: tuple[Any, Bool[np.ndarray, " n"]],
        scored: tuple[Any, Bool[np.ndarray, " m"]],
    ) -> tuple[Shaped[np.ndarray, "k candidates"], Shaped[np.ndarray, "m candidates"]]:
        """Fit without the rows that are ``held`` out, and on all where the recipe does.

        Returns:
            What candidates of the first fit have `stated` of these rows, and of the last fit of scored ones.
        """
        if not self.recipe.refit:
            tried, final = fits(~held[1], (held, scored))
            return tried, final
        (tried,), (final,) = fits(~held[1], (held,)), fits(held[1] | True, (scored,))
        return tried, final

    def predictions(
        self,
        tables: Sequence[FeatureTable],
        labels: Int[np.ndarray, " n"],
        rows: Bool[np.ndarray, " n"],
        judged: Sequence[Judged],
    ) -> list[Shaped[np.ndarray, "_ candidates"]]:
        """Train on some rows of each of the tables, and classify what is judged, as `candidates` does."""
        used = [(table, np.flatnonzero(chosen), table.targets) for table, chosen in judged]
        readers = [
            (self.reader([table], places), truth[places])
            for table, places, truth in used
            if truth is not None
        ]
        read = self.reader(tables, np.flatnonzero(rows))
        width = tables[0][self.readouts[0]].shape[-1]
        return self.candidates(width, read, np.tile(labels[rows], len(tables)), readers)

    def candidates(
        self,
        width: int,
        read: Reader,
        labels: Int[np.ndarray, " n"],
        judged: Sequence[tuple[Reader, Int[np.ndarray, "_"]]],
    ) -> list[Shaped[np.ndarray, "_ candidates"]]:
        """Train on images with ``labels``; return what every candidate has `stated` of what is judged.

        Readers of images with these labels are asked for all in order, at the end of every stage. Candidates
        are all heads then, those of the last stage first. One whose logits are not finite predicts -1.
        """
        module = self._module(width)
        found: list[list[Shaped[np.ndarray, "m heads"]]] = []
        for _ in self.stages_of(module, read, labels):
            found.append([_stated(module.eval(), reader, truth) for reader, truth in judged])
            module.train()
        if all(bool((part["class"] < 0).all()) for part in found[-1]):
            raise ContractError("attentive: no head is finite after training; are the features?")
        return [np.concatenate(parts, axis=1) for parts in zip(*reversed(found), strict=True)]

    def reader(self, tables: Sequence[FeatureTable], rows: Int[np.ndarray, " n"]) -> Reader:
        """Return a reader of the tokens that heads attend to."""
        return table_rows(tables, self.readouts, rows, self.context.device, tokens=True)

    @property
    def ends(self) -> tuple[int, ...]:
        """The iterations that end the stages."""
        ends = {self.iterations * stage // self.stages for stage in range(1, self.stages + 1)}
        return tuple(sorted(ends))

    def stages_of(self, module: nn.Module, read: Reader, labels: Int[np.ndarray, " n"]) -> Iterator[None]:
        """Train all heads of a module on the same batches; yield at the end of every stage."""
        truth = torch.from_numpy(labels.astype(np.int64)).to(self.context.device)
        optimizer = self._optimizer(module)
        stream, ends = batches(len(labels), self.batch_size, self.iterations, self.context.seed), self.ends
        for iteration, batch in enumerate(stream):
            for group in optimizer.param_groups:
                head = group["head"]
                group["lr"] = self.recipe.rate(head, iteration, self.iterations, self.batch_size)
                if group.get("weight_decay"):
                    group["weight_decay"] = self.recipe.decay(head, iteration, self.iterations)
            total_loss(module(read(batch)), truth[torch.from_numpy(batch).to(truth.device)]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if iteration + 1 in ends:
                yield

    def _module(self, width: int) -> nn.Module:
        size, seed = (len(self.heads), width, self.num_classes), self.context.seed
        if self.protocol == "ep":
            module: nn.Module = EfficientProbing(*size, queries=self.queries, seed=seed)
        else:
            module = (AttentionPool if self.protocol == "capi" else JepaProbes)(*size, seed=seed)
        return module.to(self.context.device).train()

    def _optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = []
        for head, own in zip(self.heads, parameters_of_heads(module), strict=True):
            biases = [parameter for name, parameter in own.items() if "bias" in name]
            others = [parameter for name, parameter in own.items() if "bias" not in name]
            decay = head.decay if self.recipe.decays_biases else 0.0
            groups.append({"params": others, "head": head, "weight_decay": head.decay})
            groups.append({"params": biases, "head": head, "weight_decay": decay})
        if self.recipe.optimizer == "lars":
            return Lars(groups)
        fused = torch.device(self.context.device).type in {"cpu", "cuda"}
        return torch.optim.AdamW(groups, betas=self.recipe.betas, fused=fused)


def total_loss(logits: Float[Tensor, "g b c"], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
    """Return the sum over heads of the mean cross-entropy of each: no head feels the others."""
    truth = labels.repeat(len(logits))
    return cross_entropy(logits.flatten(0, 1), truth, reduction="sum") / len(labels)


def parameters_of_heads(module: nn.Module) -> list[dict[str, nn.Parameter]]:
    """Return the named parameters of each head, which share memory with those of the module.

    Gradients of the module are handed on to them as soon as they are known.
    """
    if isinstance(module, nn.ModuleList):
        return [dict(head.named_parameters()) for head in module]
    parts = {name: _separate(parameter) for name, parameter in module.named_parameters()}
    return [dict(zip(parts, own, strict=True)) for own in zip(*parts.values(), strict=True)]


def _separate(stacked: nn.Parameter) -> list[nn.Parameter]:
    own = [nn.Parameter(part) for part in stacked.data]

    def hand_on(whole: Tensor) -> None:
        assert whole.grad is not None
        for parameter, gradient in zip(own, whole.grad, strict=True):
            parameter.grad = gradient
        whole.grad = None

    stacked.register_post_accumulate_grad_hook(hand_on)
    return own


@torch.no_grad()
def _stated(module: nn.Module, read: Reader, truth: Int[np.ndarray, " m"]) -> Shaped[np.ndarray, "m heads"]:
    found: list[Shaped[np.ndarray, "b heads"]] = []
    labels = torch.from_numpy(truth.astype(np.int64))
    for start in range(0, len(truth), _CHUNK):
        logits = module(read(np.arange(start, min(start + _CHUNK, len(truth))))).transpose(0, 1)
        found.append(stated(logits, labels[start : start + _CHUNK]))
        found[-1]["class"][~logits.isfinite().all(dim=2).cpu().numpy()] = -1
    return np.concatenate(found)
