"""One step of fine-tuning after another: gradients of parts of a batch, then an update."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssleval.core import Context
from ssleval.errors import ConfigError, DivergedError
from ssleval.heads.finetune.augment import drawn
from ssleval.heads.finetune.network import Network
from ssleval.heads.finetune.recipes import Recipe


class Learner:
    """A network with its optimiser, schedule, mixing, averaged weights and scale of the loss.

    What is drawn depends on the seed, the step and the part of the batch alone.
    """

    def __init__(self, network: Network, recipe: Recipe, rate: float, context: Context) -> None:
        self.network, self.recipe, self.context = network, recipe, context
        self.optimizer, self._scheduler = optimizer(network, recipe, rate)
        device = torch.device(context.device).type
        self.scaler = torch.amp.GradScaler(device, enabled=context.precision == "fp16")
        self.average: Any = None
        if recipe.ema:
            from timm.utils.model_ema import ModelEmaV3

            self.average = ModelEmaV3(network, recipe.ema, use_warmup=True)

    def add_gradients(
        self, images: UInt8[Tensor, "b 3 H W"], labels: Int[Tensor, " b"], step: int, part: int
    ) -> Float[Tensor, ""]:
        """Add the gradients of a part of a batch to those there are; return its part of the mean loss."""
        with drawn("finetune", self.context.seed, step, part, device=self.context.device):
            pixels, targets = self._mixed(images, labels)
            loss = cross_entropy(self.network(pixels).float(), targets) * (
                len(labels) / self.recipe.batch_size
            )
            self.scaler.scale(loss).backward()
        return loss.detach()

    @torch.no_grad()
    def gathered(self, loss: Float[Tensor, ""]) -> Float[Tensor, " n"]:
        """Return what processes have to add up: the loss and all gradients, in one vector."""
        pairs = ((weight, weight.grad) for weight in self._weights)
        known = (torch.zeros_like(weight) if own is None else own for weight, own in pairs)
        return torch.cat([loss.reshape(1), *(gradient.flatten() for gradient in known)])

    @torch.no_grad()
    def update(self, total: Float[Tensor, " n"], step: int) -> None:
        """Take a step by the ``total`` of what `gathered` returned in all processes.

        Raises:
            DivergedError: the loss is not finite.
        """
        if not bool(total[0].isfinite()):
            raise DivergedError(
                f"finetune: the loss at step {step} is not finite; --set finetune.learning_rates= a lower one"
            )
        parts = total[1:].split([weight.numel() for weight in self._weights])
        for weight, part in zip(self._weights, parts, strict=True):
            weight.grad = part.view_as(weight)
        self._scheduler.step_update(step)
        # A process without a part of the batch has scaled no loss, and the scaler begins with one.
        self.scaler.scale(total[:1])
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self._weights, self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.network, step + 1)

    @property
    def statistics(self) -> list[Tensor]:
        """Running means and variances of batch norms, of which every part of a batch makes its own."""
        kinds = nn.modules.batchnorm._BatchNorm
        norms = [part for part in self.network.modules() if isinstance(part, kinds)]
        return [one for part in norms for one in (part.running_mean, part.running_var) if one is not None]

    @property
    def tuned(self) -> Network:
        """The network to evaluate: the averaged weights where there are some."""
        network = self.network if self.average is None else self.average.module
        network.training_mode(mode=False)
        return network

    def state(self) -> dict[str, Any]:
        """Return what a resumed fit needs, on the CPU."""
        average = None if self.average is None else self.average.module.state_dict()
        return {
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), "average": average,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])

    @cached_property
    def _weights(self) -> list[nn.Parameter]:
        return [weight for weight in self.network.parameters() if weight.requires_grad]

    def _mixed(self, images: UInt8[Tensor, "b 3 H W"], labels: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """Return normalised images and the distributions over classes that they are to be given."""
        from timm.data.mixup import Mixup, mixup_target
        from timm.data.random_erasing import RandomErasing

        recipe, classes = self.recipe, self.network.head.out_features
        pixels = self.network.normalised(images.float().div_(255))
        if recipe.erasing:
            pixels = RandomErasing(recipe.erasing, mode="pixel", device=str(pixels.device))(pixels)
        if recipe.mixup or recipe.cutmix:
            mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=classes)
            return mix(pixels, labels)
        return pixels, mixup_target(labels, classes, smoothing=recipe.smoothing)


def optimizer(network: Network, recipe: Recipe, rate: float) -> tuple[torch.optim.Optimizer, Any]:
    """Return AdamW with timm's groups of layers, and timm's schedule: a warm-up from zero, then a cosine."""
    from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]
    from timm.scheduler.cosine_lr import CosineLRScheduler

    groups = param_groups_layer_decay(
        network,
        recipe.weight_decay,
        network.no_weight_decay(),
        layer_decay=recipe.layer_decay,
    )
    fused = network.head.weight.device.type in {"cpu", "cuda"}
    adamw = torch.optim.AdamW(groups, lr=recipe.step_rate(rate), fused=fused)
    warmup = round(recipe.warmup * recipe.iterations)
    after = max(1, recipe.iterations - warmup)
    schedule = CosineLRScheduler(
        adamw, after, recipe.min_rate, warmup_t=warmup, warmup_prefix=True, t_in_epochs=False
    )
    return adamw, schedule


def refuse_odd(recipe: Recipe, parts: int) -> None:
    """Refuse parts of batches of an odd number of images, which timm cannot mix in pairs."""
    if (recipe.mixup or recipe.cutmix) and (recipe.batch_size % 2 or parts % 2):
        raise ConfigError(
            f"finetune: batches of {recipe.batch_size} in parts of {parts}; mixup and cutmix need even ones"
        )
