"""Every error a user can cause.

    SslevalError
    ├── UnknownNameError      no such model, dataset, task, split or readout; suggests the nearest
    ├── DuplicateNameError    two plug-ins claim one name
    ├── ContractError         a backbone, dataset or task broke the promise of its card
    ├── DataError             files missing, damaged or not the ones we expected
    ├── WeightsError          weights out of reach, of another layout, or not those the card pins
    ├── ConfigError           a setting that no run could honour
    ├── DivergedError         a training whose loss is no longer a number
    └── NotApplicableError    this task has no meaning for this model or dataset

The command line prints these as one line and exits with 2; anything else is a bug and keeps its
traceback. A message says who, what it got, what it needed and what to do.
"""

_LONGEST = 2_000


class SslevalError(Exception):
    """Base class. Catch this to catch everything ssleval raises on purpose.

    Messages quote names from files, which have no bound: of a long one, beginning and end are kept.
    """

    def __init__(self, message: str = "") -> None:
        half = _LONGEST // 2
        super().__init__(message if len(message) <= _LONGEST else f"{message[:half]} ... {message[-half:]}")


class UnknownNameError(SslevalError):
    """A name is not among those known."""


class DuplicateNameError(SslevalError):
    """A name is registered twice."""


class ContractError(SslevalError):
    """An object returned something its contract forbids."""


class DataError(SslevalError):
    """Data on disk is absent, damaged, or not what the dataset card says."""


class WeightsError(SslevalError):
    """Weights cannot be had, do not fit the architecture, or are not the pinned ones."""


class ConfigError(SslevalError):
    """A setting is invalid on its own or together with another."""


class DivergedError(SslevalError):
    """A training cannot go on: a loss is not finite."""


class NotApplicableError(SslevalError):
    """A task asks for something this model or dataset does not have, such as a text tower."""
