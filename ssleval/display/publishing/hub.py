"""Results in formats of the Hugging Face Hub: `model-index` in a model card, and files of `.eval_results`.

The Hub shows an entry of `.eval_results` on the leaderboard of a benchmark, a dataset repository that defines
tasks in its `eval.yaml`. Only the caller knows which benchmark a board is, and in which unit it counts.

Sources:
    https://huggingface.co/docs/hub/eval-results and huggingface_hub's `EvalResultEntry`, of 2026;
    https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from ssleval.core.escape import markdown_cell, markdown_table, visible
from ssleval.core.registry import suggestion
from ssleval.core.text import some
from ssleval.display.publishing.public import file_names
from ssleval.errors import ConfigError, DataError, UnknownNameError
from ssleval.results.leaderboard import columns
from ssleval.results.overall import family_of
from ssleval.results.ranking import Board, Entry

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_REPOSITORY = r"[\w.-]+/[\w.-]+"
_BENCHMARK = re.compile(rf"(?P<board>.+)=(?P<dataset>{_REPOSITORY}):(?P<task>[\w.-]+)")
_ON_HUB = "huggingface.co/datasets/"
_KINDS = {
    "segmentation": "image-segmentation",
    "segmentation_knn": "image-segmentation",
    "depth": "depth-estimation",
    "zeroshot": "zero-shot-image-classification",
}
"""The Hub's task types. Classification is one by its family; all else is of the features."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A task of a benchmark of the Hub."""

    dataset: str
    """``OWNER/NAME`` of its repository."""
    task: str
    """Its id in the repository's ``eval.yaml``."""
    percent: bool = False
    """Whether it counts fractions in percent."""


def parse_benchmark(text: str, *, percent: bool = False) -> tuple[str, Benchmark]:
    """Return the board and the benchmark that ``TASK/DATASET=OWNER/NAME:TASK_ID`` names."""
    found = _BENCHMARK.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--benchmark {text}: expected TASK/DATASET=OWNER/NAME:TASK_ID, where OWNER/NAME is the dataset "
            "repository of the benchmark and TASK_ID one of the tasks in its eval.yaml"
        )
    return found["board"], Benchmark(found["dataset"], found["task"], percent)


def hub_files(
    ranked: Sequence[Board],
    benchmarks: Mapping[str, Benchmark],
    source: str = "",
    *,
    note: Callable[[str], None],
) -> dict[str, dict[str, str]]:
    """Return the files of a repository for every model: by the model's title, then by path.

    ``source`` is the address where readers find more. Results of a limited number of images are said to
    ``note`` and left out.

    Raises:
        UnknownNameError: a benchmark's board is not there.
        ConfigError: a model has several results for one task of a benchmark.
        DataError: nothing is left.
    """
    named = dict(zip(columns(ranked), ranked, strict=True))
    for name in benchmarks:
        if name not in named:
            raise UnknownNameError(f"--benchmark {name}: no such board; {suggestion(name, named)}")
    rows = defaultdict[str, list[tuple[str, Board, Entry]]](list)
    weights = {(one.result.model, one.result.weights_sha256) for board in ranked for one in board.entries}
    checkpoints = Counter(model for model, _ in weights)
    limited: list[str] = []
    for name, board in named.items():
        for entry in board.entries:
            if entry.result.settings.get("limit"):
                limited.append(f"{entry.label} on {name}")
            else:
                # One model's weights belong into one repository.
                model, digits = entry.result.model, entry.result.weights_sha256[:8]
                title = model if checkpoints[model] == 1 else f"{model}@{digits}"
                rows[title].append((name, board, entry))
    if limited:
        note(f"left out, being of a part of the images: {some(limited)}")
    if not rows:
        raise DataError("nothing to publish: all results are of a part of the images (--limit)")
    return {title: _files(title, own, benchmarks, source) for title, own in rows.items()}


def _files(
    title: str, rows: Sequence[tuple[str, Board, Entry]], benchmarks: Mapping[str, Benchmark], source: str
) -> dict[str, str]:
    files = {"README.md": _card(title, rows, source)}
    stems = file_names(benchmarks)
    for name, benchmark in benchmarks.items():
        entries = [(board, entry) for own, board, entry in rows if own == name]
        if len(entries) > 1:
            labels = [entry.label for _, entry in entries]
            raise ConfigError(
                f"{name}: a benchmark takes one result of a model, and there are {some(labels)}; move the "
                "others out of the results folder"
            )
        if entries:
            content = [_evaluation(*entries[0], benchmark, source)]
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
            # Files of other programs are left alone.
            files[f".eval_results/ssleval-{stems[name]}.yaml"] = text
    return files


def _evaluation(board: Board, entry: Entry, benchmark: Benchmark, source: str) -> dict[str, Any]:
    result, score = entry.result, entry.result.leading
    percent = benchmark.percent and score.unit == "fraction"
    dataset = {"id": benchmark.dataset, "task_id": benchmark.task}
    place = _on_hub(result.data)
    if place.get("dataset_type") == benchmark.dataset and "dataset_revision" in place:
        dataset["revision"] = place["dataset_revision"]
    unit = "in percent" if percent else "as a fraction" if score.unit == "fraction" else f"in {score.unit}"
    low, high = (f"{_value(end, percent=percent):g}" for end in score.ci95)
    notes = (
        f"frozen features; {board.task} {result.headline} {unit}, 95 % interval {low} to {high}, "
        f"n = {score.n}, protocol {board.protocol}, ssleval {result.versions.get('ssleval', '')}".strip()
    )
    return {
        "dataset": dataset,
        "value": _value(score.value, percent=percent),
        **({"date": result.created[:10]} if result.created else {}),
        **({"source": {"url": source, "name": "ssleval"}} if source else {}),
        "notes": visible(notes),
    }


def _value(value: float, *, percent: bool) -> float:
    return round(100 * value if percent else value, 6)


def _card(title: str, rows: Sequence[tuple[str, Board, Entry]], source: str) -> str:
    """Return a model card: the metadata, and a table for people."""
    from huggingface_hub import ModelCardData

    found = [_eval_result(board, entry, source) for _, board, entry in rows]
    data = ModelCardData(model_name=visible(title), eval_results=found)
    lines: list[list[str]] = []
    for name, board, entry in rows:
        score = entry.result.leading
        texts = [name, board.split, f"{entry.result.headline}{_told_apart(entry)}", score.shown, str(score.n)]
        lines.append([*map(markdown_cell, [*texts, board.protocol])])
    heads = ("board", "split", "metric", "score [95 %]", "n", "protocol")
    table = markdown_table(heads, lines, texts={0, 1, 2, 5})
    head = f"# {markdown_cell(title)}\n\nMeasured on frozen features by ssleval; fractions in percent.\n"
    return f"---\n{data.to_yaml()}\n---\n\n{head}\n{table}\n"


def _eval_result(board: Board, entry: Entry, source: str) -> "EvalResult":
    from huggingface_hub import EvalResult

    result, score = entry.result, entry.result.leading
    classified = family_of(board.task) in {"classification", "robustness"}
    kind = _KINDS.get(board.task, "image-classification" if classified else "image-feature-extraction")
    dataset, metric = visible(board.dataset), visible(result.headline)
    place: dict[str, Any] = {"dataset_type": dataset, "dataset_split": visible(board.split)}
    place |= _on_hub(result.data)
    return EvalResult(
        task_type=kind,
        dataset_name=dataset,
        task_name=kind.replace("-", " ").title(),
        metric_type="accuracy" if metric.partition("@")[0] == "top1" else metric,
        metric_name=visible(f"{board.task} {metric}, protocol {board.protocol}{_told_apart(entry)}"),
        metric_value=round(score.value, 6),
        metric_args={"ci95": [round(end, 6) for end in score.ci95], "n": score.n, "unit": score.unit},
        source_url=source or None,
        source_name="ssleval" if source else None,
        **place,
    )


def _told_apart(entry: Entry) -> str:
    """Return what tells an entry apart from others of its model, as `` (seed 1)``; '' for the usual one."""
    return entry.label.removeprefix(entry.result.model)


def _on_hub(data: Mapping[str, Any]) -> dict[str, str]:
    """Return where data lies on the Hub; {} for data from elsewhere."""
    source = str(data.get("source", ""))
    if not source.startswith(_ON_HUB):
        return {}
    path, _, revision = source.removeprefix(_ON_HUB).partition("@")
    owner, _, name = path.partition("/")
    name, _, config = name.partition("/")
    place = {"dataset_type": f"{owner}/{name}" if name else owner}
    split = str(data.get("test_split", ""))
    place["dataset_split"] = {"val": "validation"}.get(split, split)
    place |= {"dataset_config": config} if config else {}
    return place | ({"dataset_revision": revision} if re.fullmatch("[0-9a-f]{40}", revision) else {})
