"""Files for the Hugging Face Hub, read back by its own library; uploads go to a stand-in on this machine."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, constants, parse_eval_result_entries

from ssleval.display.publishing.hub import Benchmark, hub_files, parse_benchmark
from ssleval.display.publishing.public import public_boards
from ssleval.display.publishing.upload import merged, propose
from ssleval.errors import ConfigError, DataError, UnknownNameError
from ssleval.results import record
from tests.cli.test_cli import Cli, cli  # noqa: F401  # pyright: ignore[reportUnusedImport]
from tests.results.test_overall import measured, suite

REVISION = "0123456789abcdef0123456789abcdef01234567"
ON_HUB = f"huggingface.co/datasets/org/birds/small@{REVISION}"


def files(folder: Path, *benchmarks: str, percent: bool = False, **changes: Any) -> dict[str, dict[str, str]]:
    """Return the files of one model on two boards; ``changes`` are to the fields of its results."""
    for result, samples in suite({"ours": 0.7}, [("knn", "a"), ("depth", "b")]):
        made = replace(result, created="2026-11-29T05:00:00+00:00", versions={"ssleval": "0.1.0"}, **changes)
        record.write(folder, made, samples)
    named = dict(parse_benchmark(text, percent=percent) for text in benchmarks)
    ranked = public_boards(record.read_all(folder))
    return hub_files(ranked, named, "https://board.example/x", note=lambda _: None)


def read_card(text: str) -> Any:
    """Return the metadata of a model card, as the Hub's library reads it."""
    return ModelCard(text).data


def value_of(folder: Path, task: str) -> float:
    return next(one for one in record.read_all(folder) if one.task == task).metrics["top1"].value


def test_a_benchmark_entry_is_what_the_library_reads(tmp_path: Path) -> None:
    written = files(tmp_path, "knn/a=org/birds:birds_knn")["ours"]
    assert set(written) == {"README.md", ".eval_results/ssleval-knn_a.yaml"}
    (raw,) = yaml.safe_load(written[".eval_results/ssleval-knn_a.yaml"])
    assert set(raw) <= {"dataset", "value", "date", "source", "notes"}
    assert isinstance(raw["date"], str)
    (entry,) = parse_eval_result_entries([raw])
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("org/birds", "birds_knn", None)
    assert entry.value == pytest.approx(value_of(tmp_path, "knn"), abs=1e-6)
    assert (entry.date, entry.source_url) == ("2026-11-29", "https://board.example/x")
    for words in ("knn top1 as a fraction", "95 % interval", "n = 300", "protocol ", "ssleval 0.1.0"):
        assert words in str(entry.notes)
    assert entry.verify_token is None


def test_fractions_are_percent_only_where_the_benchmark_is_said_to_count_so(tmp_path: Path) -> None:
    written = files(tmp_path, "knn/a=org/birds:knn", percent=True)["ours"]
    (raw,) = yaml.safe_load(written[".eval_results/ssleval-knn_a.yaml"])
    assert raw["value"] == pytest.approx(100 * value_of(tmp_path, "knn"))
    assert "top1 in percent" in raw["notes"]
    (index, _) = read_card(written["README.md"]).eval_results
    assert index.metric_value < 1


def test_the_model_card_is_what_the_library_reads(tmp_path: Path) -> None:
    (written,) = files(tmp_path).values()
    assert set(written) == {"README.md"}, "no benchmark was named"
    card = read_card(written["README.md"])
    found = {one.task_type: one for one in card.eval_results}
    assert set(found) == {"image-classification", "depth-estimation"}
    one = found["image-classification"]
    assert (one.dataset_type, one.dataset_split, one.metric_type) == ("a", "test", "accuracy")
    assert one.metric_value == pytest.approx(value_of(tmp_path, "knn"), abs=1e-6)
    assert one.metric_args is not None
    assert one.metric_args["ci95"][0] < one.metric_value < one.metric_args["ci95"][1]
    assert str(one.metric_name).startswith("knn top1, protocol ")
    assert card.model_name == "ours"
    assert "| knn/a | test | top1 |" in written["README.md"]


def test_data_from_the_hub_is_named_as_there(tmp_path: Path) -> None:
    data = {"source": ON_HUB, "test_split": "val", "fingerprints": {"x": "y"}}
    written = files(tmp_path, "knn/a=org/birds:knn", data=data)["ours"]
    (raw,) = yaml.safe_load(written[".eval_results/ssleval-knn_a.yaml"])
    assert raw["dataset"]["revision"] == REVISION
    one = read_card(written["README.md"]).eval_results[0]
    assert (one.dataset_type, one.dataset_config) == ("org/birds", "small")
    assert (one.dataset_split, one.dataset_revision) == ("validation", REVISION)


def test_results_of_a_part_of_the_images_are_left_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="part of the images"):
        files(tmp_path, settings={"precision": "fp32", "seed": 0, "limit": 50, "skip_corrupt": False})


def test_two_results_for_one_benchmark_are_refused_and_told_apart_in_the_card(tmp_path: Path) -> None:
    for seed in (0, 1):
        result, samples = measured("ours", "knn", 0.7)
        settings = {**result.settings, "seed": seed}
        record.write(tmp_path, replace(result, key=f"{seed}" * 64, settings=settings), samples)
    ranked = public_boards(record.read_all(tmp_path))
    with pytest.raises(ConfigError, match="takes one result of a model"):
        hub_files(ranked, {"knn/a": Benchmark("org/x", "t")}, note=lambda _: None)
    ((_, written),) = hub_files(ranked, {}, note=lambda _: None).items()
    names = {one.metric_name for one in read_card(written["README.md"]).eval_results}
    assert {str(name).rpartition(" (")[2] for name in names} == {"seed 0)", "seed 1)"}


def test_weights_of_one_model_are_repositories_of_their_own(tmp_path: Path) -> None:
    for digit in "12":
        result, samples = measured("ours", "knn", 0.7)
        record.write(tmp_path, replace(result, key=digit * 64, weights_sha256=digit * 64), samples)
    ranked = public_boards(record.read_all(tmp_path))
    assert set(hub_files(ranked, {}, note=lambda _: None)) == {"ours@11111111", "ours@22222222"}


@pytest.mark.parametrize("text", ["knn/a", "knn/a=birds:knn", "knn/a=org/birds", "=org/birds:knn"])
def test_a_benchmark_is_named_in_full(text: str) -> None:
    with pytest.raises(ConfigError, match="TASK/DATASET=OWNER/NAME:TASK_ID"):
        parse_benchmark(text)


def test_a_board_that_is_not_there_is_no_benchmark(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean knn/a"):
        files(tmp_path, "kn/a=org/birds:knn")


CARD = """---
license: mit
model-index:
- name: theirs
  results:
  - task: {type: image-classification}
    dataset: {name: a, type: a, split: test}
    metrics:
    - {type: accuracy, value: 0.5, name: their own}
---
# What they wrote
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a pull request needs."""

    card: str
    refused: int
    got: dict[str, Any]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if not self.card:
            return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        return self.answer(self.card.encode(), 200, {"ETag": '"e"', "X-Repo-Commit": REVISION})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            return self.answer(b"{}")
        if "/preupload/" in self.path:
            asked = [one["path"] for one in json.loads(content)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]
            return self.answer(json.dumps({"files": modes}).encode())
        self.got.update(path=self.path, lines=[json.loads(line) for line in content.splitlines()])
        if self.refused:
            return self.answer(b'{"error": "no"}', self.refused)
        address = f"https://huggingface.co/org/ours/commit/{REVISION}"
        pull = "https://huggingface.co/org/ours/discussions/3"
        done = {"commitUrl": address, "commitOid": REVISION, "pullRequestUrl": pull, "success": True}
        return self.answer(json.dumps(done).encode())

    def answer(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class Own(Hub):
        card, refused, got = "", 0, {}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield Own
    server.shutdown()
    server.server_close()


def sent(hub: type[Hub]) -> dict[str, str]:
    """Return the files of the commit."""
    values = [line["value"] for line in hub.got["lines"] if line["key"] == "file"]
    return {value["path"]: base64.b64decode(value["content"]).decode() for value in values}


def test_a_pull_request_with_all_files_is_opened(hub: type[Hub], tmp_path: Path) -> None:
    written = files(tmp_path / "results", "knn/a=org/birds:knn")["ours"]
    assert propose("org/ours", written) == "https://huggingface.co/org/ours/discussions/3"
    assert hub.got["path"] == "/api/models/org/ours/commit/main?create_pr=1"
    assert sent(hub) == written


def test_a_card_that_is_there_keeps_its_text_and_the_results_of_others(
    hub: type[Hub], tmp_path: Path
) -> None:
    hub.card = CARD
    written = files(tmp_path / "results")["ours"]
    propose("org/ours", written)
    card = sent(hub)["README.md"]
    assert ModelCard(card).text.strip() == "# What they wrote"
    assert read_card(card).license == "mit"
    names = [str(one.metric_name) for one in read_card(card).eval_results]
    assert len(names) == 3
    assert "their own" in names
    # Once more, with another value: nothing is twice.
    again = merged(card, written["README.md"].replace("value: 0.", "value: 0.9"), "org/ours")
    assert len(read_card(again).eval_results) == 3
    with pytest.raises(DataError, match="several models"):
        merged(
            CARD.replace("---\n#", "- name: second\n  results: []\n---\n#"), written["README.md"], "org/ours"
        )


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_the_hub_refuses_is_one_line(hub: type[Hub], tmp_path: Path, status: int) -> None:
    hub.refused = status
    with pytest.raises(DataError, match="org/ours: nothing was uploaded"):
        propose("org/ours", files(tmp_path / "results")["ours"])


def test_the_command_writes_and_sends_only_on_request(hub: type[Hub], cli: Cli) -> None:  # noqa: F811
    files(cli.folder / "results")
    code, out, err = cli("export", "results", "hub", "--to", "hf", "--source", "https://x.example")
    assert (code, out.strip()) == (0, "hub/ours: README.md"), err
    assert hub.got == {}
    code, out, _ = cli("export", "results", "new", "--to", "hf", "--upload", "org/ours")
    assert (code, out.splitlines()[-1]) == (0, "pull request: https://huggingface.co/org/ours/discussions/3")
    assert sent(hub)["README.md"] == (cli.folder / "new" / "ours" / "README.md").read_text()
    for arguments, words in (
        (["hub", "--to", "hf"], "not empty"),
        (["s", "--to", "site", "--upload", "org/ours"], "are of --to hf"),
        (["s", "--to", "hf", "--percent"], "--benchmark"),
        (["s", "--to", "hf", "--source", "here"], "expected an address"),
        (["s", "--to", "hf", *["--benchmark", "knn/a=org/birds:knn"] * 2], "named twice"),
        (["s", "--to", "hf", "--incomplete"], "ranks nothing"),
    ):
        code, _, err = cli("export", "results", *arguments)
        assert (code, words in err) == (2, True), err
    record.write(cli.folder / "results", *measured("second", "knn", 0.5))
    code, _, err = cli("export", "results", "two", "--to", "hf", "--upload", "org/ours")
    assert (code, "name it by --model" in err) == (2, True)
    code, out, _ = cli("export", "results", "one", "--to", "hf", "--model", "second")
    assert (code, out.strip()) == (0, "one/second: README.md")


def test_tables_and_the_site_by_the_command(cli: Cli) -> None:  # noqa: F811
    for result, samples in suite({"x": 0.9, "y": 0.3}, [("knn", "a"), ("linear", "a")]):
        record.write(cli.folder / "results", result, samples)
    assert cli("export", "results", "tables", "--to", "csv")[0] == 0
    names = {path.name for path in (cli.folder / "tables").iterdir()}
    assert names == {"leaderboard.csv", "leaderboard_long.csv", "overall.csv", "overall.tex"}
    code, out, _ = cli("export", "results", "site", "--to", "site", "--title", "Ours")
    assert (code, out.strip()) == (0, "site: 5 pages; site/index.html is the first")
    assert "<h1>Ours</h1>" in (cli.folder / "site" / "index.html").read_text()
