"""Find stored results by a name: a file, a folder, or a model of a results folder. Imports no torch."""

import os
from collections.abc import Sequence
from pathlib import Path

from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, UnknownNameError
from ssleval.results.record import Result, files_in, grouped, read, read_all, read_files


def stored_results(name: str, folder: Path) -> list[Result]:
    """Return the results of one model.

    ``name`` is a result file, a folder that holds one model's results, a results folder of one model, or the
    name of a model in the results folder ``folder``. ``NAME@DIGITS`` picks one of several checkpoints of a
    model, or of a folder, by leading digits of the sha256 of its weights.

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
        results = _read_folder(Path(model))
        chosen = _of_weights(results, weights)
        if not chosen:
            known = ", ".join(sorted({result.weights_sha256[:8] for result in results})[:4])
            raise UnknownNameError(f"{name}: no result of such weights in {model}, which has {known}")
        return _of_one_model(name, chosen)
    if not folder.is_dir():
        refuse_missing_path(name)
    by_model = grouped(read_all(folder), lambda result: result.model)
    chosen = by_model.get(name) or (_of_weights(by_model.get(model, []), weights) if at else [])
    if not chosen:
        refuse_missing_path(name)
        known = suggestion(name, sorted(by_model))
        raise UnknownNameError(f"no result file, folder or model {name!r} (models in {folder}: {known})")
    return _of_one_model(name, chosen)


def refuse_missing_path(name: str) -> None:
    """Refuse a name that is written like a path, for what it names is not there; others may be of a model."""
    # Identifiers of models may hold slashes, too, behind a colon.
    explicit = name.endswith(".json") or name.startswith(("/", "./", "../", "~"))
    if (explicit or ("/" in name and ":" not in name)) and not os.path.lexists(name):
        raise UnknownNameError(f"no such file or folder: {name}; name one that exists, or a model")


def _of_weights(results: Sequence[Result], digits: str) -> list[Result]:
    return [result for result in results if result.weights_sha256.startswith(digits)]


def _read_folder(path: Path) -> list[Result]:
    files = files_in(path)
    return read_files(files) if files else read_all(path)


def _of_one_model(name: str, results: Sequence[Result]) -> list[Result]:
    models = sorted({result.model for result in results})
    if len(models) != 1:
        held = ", ".join(models[:4]) or "no result at all"
        raise ConfigError(f"{name} holds {held}; name one model, a folder of one, or a result file")
    weights = sorted({result.weights_sha256[:8] for result in results})
    if len(weights) > 1:
        choices = " or ".join(f"{name}@{digits}" for digits in weights[:4])
        raise ConfigError(f"{name} holds results of {len(weights)} different weights; say {choices}")
    return list(results)
