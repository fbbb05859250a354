"""Imported once by the process that all those of the trainer's tests are copies of: what trainings use."""

from importlib import import_module

from ssleval.core import datasets
from ssleval.core.task import tasks

USED = [import_module(name) for name in ("torch._dynamo", "ssleval.run.extracting", "ssleval.train.loop")]
LOADED = [*datasets, *tasks]
