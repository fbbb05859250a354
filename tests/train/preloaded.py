"""Imported once by the process that all those of the trainer's tests are copies of: what trainings use."""

import torch._dynamo  # noqa: F401

import ssleval.run.extracting
import ssleval.train.loop  # noqa: F401
from ssleval.core import datasets
from ssleval.core.task import tasks

LOADED = [*datasets, *tasks]
