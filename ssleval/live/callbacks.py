"""Callbacks of other people's trainers, made of an `Evaluator`. They log where these trainers log, too."""

from contextlib import suppress
from importlib import import_module
from typing import Any

from ssleval.errors import ConfigError
from ssleval.live.evaluator import Evaluator


def for_lightning(evaluator: Evaluator) -> Any:
    """Return a callback of Lightning that evaluates after batches, at steps of ``trainer.global_step``.

    The evaluator is given the LightningModule; its ``wrap`` says which part is the backbone. Scores go to the
    loggers of the trainer, and to what checkpoints may monitor.

    Raises:
        ConfigError: Lightning is not installed.
    """
    callback: Any = _lightning()

    class LiveEvaluation(callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
            values = evaluator(trainer.global_step, pl_module)
            if values is None:
                return
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
            pl_module.log_dict(values, logger=False, rank_zero_only=True)

    return LiveEvaluation()


def for_transformers(evaluator: Evaluator) -> Any:
    """Return a ``TrainerCallback`` that evaluates at steps of ``state.global_step``.

    The evaluator is given the model of the trainer; its ``wrap`` says which part is the backbone. Scores are
    also kept in ``state.log_history``, which checkpoints hold.

    Raises:
        ConfigError: transformers is not installed.
    """
    from transformers import TrainerCallback

    class LiveEvaluation(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            values = evaluator(state.global_step, kwargs["model"])
            if values is not None:
                state.log_history.append({**values, "step": state.global_step, "epoch": state.epoch})

    return LiveEvaluation()


def _lightning() -> Any:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        with suppress(ImportError):
            return import_module(name).Callback
    raise ConfigError("for_lightning: Lightning is not installed; pip install lightning")
