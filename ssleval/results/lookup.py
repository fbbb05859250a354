"""Find stored results by a name: a file, a folder, or a model of a results folder. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from ssleval.core.registry import spelt_as_path, unknown
from ssleval.core.text import some
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
    # A path that is not there is said before that there is no results folder.
    results = [] if spelt_as_path(name) and not folder.exists() else read_all(folder)
    by_model = grouped(results, lambda result: result.model)
    chosen = by_model.get(name) or (_of_weights(by_model.get(model, []), weights) if at else [])
    if not chosen:
        error = unknown("result file, folder or model", name, by_model)
        raise UnknownNameError(f"{error} (looked for in {folder})")
    return _of_one_model(name, chosen)


def one_result(name: str, folder: Path, *, task: str | None, dataset: str | None) -> Result:
    """Return the only result that `stored_results` gives of a task and a dataset, of any where None.

    Raises:
        ConfigError: there are several, or none; the message names them.
    """
    stored = stored_results(name, folder)
    chosen = [
        result for result in stored if task in {None, result.task} and dataset in {None, result.dataset}
    ]
    if len(chosen) == 1:
        return chosen[0]
    known = sorted({f"{result.task} on {result.dataset}" for result in stored})
    if len(chosen) > 1 and len({(result.task, result.dataset) for result in chosen}) == 1:
        raise ConfigError(
            f"{name}: {some([result.path for result in chosen])} all fit; name one of these files"
        )
    raise ConfigError(f"{name} has {some(known)}; choose one by --task and --dataset")


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
