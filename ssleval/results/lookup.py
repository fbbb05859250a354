"""Which stored results a name means: a file, a folder, or a model of a results folder. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, UnknownNameError
from ssleval.results.record import Result, read, read_all


def stored_results(name: str, folder: Path) -> list[Result]:
    """Return the results of one model.

    Args:
        name: a result file; a folder that holds one model's results, or a results folder of one model;
            or the name of a model in ``folder``. Behind an ``@``, leading digits of the hash of its
            weights pick one of several checkpoints of that name, or in that folder.
        folder: where models are looked up by name.

    Raises:
        UnknownNameError: no such file, folder or model.
        ConfigError: results of several models.
    """
    path = Path(name)
    model, at, weights = name.rpartition("@")
    if path.is_file():
        return [read(path)]
    if path.is_dir():
        return _of_one_model(name, _read_folder(path))
    if at and Path(model).is_dir():
        every = _read_folder(Path(model))
        picked = [one for one in every if one.weights_sha256.startswith(weights)]
        if not picked:
            there = ", ".join(sorted({one.weights_sha256[:8] for one in every})[:4])
            raise UnknownNameError(f"{name}: no result of such weights in {model}, which has {there}")
        return _of_one_model(name, picked)
    found = read_all(folder)
    named = [one for one in found if one.model == name]
    if not named and at:
        named = [one for one in found if one.model == model and one.weights_sha256.startswith(weights)]
    if not named:
        known = suggestion(name, sorted({one.model for one in found}))
        raise UnknownNameError(f"no result file, folder or model {name!r} (models in {folder}: {known})")
    return _of_one_model(name, named)


def _read_folder(path: Path) -> list[Result]:
    direct = sorted(path.glob("*.json"))
    return [read(one) for one in direct] if direct else read_all(path)


def _of_one_model(name: str, found: Sequence[Result]) -> list[Result]:
    models = sorted({one.model for one in found})
    if len(models) != 1:
        which = ", ".join(models[:4]) or "no result at all"
        raise ConfigError(f"{name} holds {which}; name one model, a folder of one, or a result file")
    weights = sorted({one.weights_sha256[:8] for one in found})
    if len(weights) > 1:
        spelt = " or ".join(f"{name}@{digits}" for digits in weights[:4])
        raise ConfigError(f"{name} holds results of {len(weights)} different weights; say {spelt}")
    return list(found)
