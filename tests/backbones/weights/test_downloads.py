"""Downloads, from a server on this machine: whole and right, or one line and nothing left behind."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from ssleval.backbones.weights.downloads import fetch_card, fetch_url
from ssleval.core import BackboneCard
from ssleval.errors import WeightsError

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0123456789" * 4


@dataclass
class Server:
    """What the server has, how it behaves, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    etag: str = '"one"'
    ranges: bool = True
    breaks_after: int | None = None
    """Bytes of a body after which the connection is closed."""
    asked: list[str] = field(default_factory=list[str])


class Handler(BaseHTTPRequestHandler):
    state: Server

    def do_HEAD(self) -> None:
        self.head()

    def do_GET(self) -> None:
        body = self.head()[: self.state.breaks_after]
        with suppress(ConnectionError):  # a client that only wanted the headers has gone
            self.wfile.write(body)

    def head(self) -> bytes:
        state, wanted = self.state, self.headers.get("Range", "")
        state.asked.append(wanted)
        if not self.path.endswith("weights.pth"):
            self.send_error(404)
            return b""
        start = int(wanted.removeprefix("bytes=").partition("-")[0] or 0) if state.ranges else 0
        if self.headers.get("If-Range", state.etag) != state.etag:
            start = 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(state.content) - start))
        self.send_header("X-Repo-Commit", COMMIT)
        if state.etag:
            self.send_header("ETag", state.etag)
        self.end_headers()
        return state.content[start:]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    state = Server()
    handler = type("BoundHandler", (Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}/some/weights.pth"
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "checkpoints"


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*") if path.suffix != ".lock")


def test_a_file_is_fetched_once_into_torchs_folder(server: Server, folder: Path) -> None:
    for _ in range(2):
        path = fetch_url(server.url, name="dino", sha256=SHA256[:8])
        assert path == folder / "weights.pth"
        assert path.read_bytes() == CONTENT
    assert server.asked == [""]
    assert left(folder) == ["weights.pth"]


def test_a_file_that_lies_there_is_used_offline(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder.mkdir(parents=True)
    (folder / "weights.pth").write_bytes(CONTENT)
    assert fetch_url(server.url, name="dino", sha256=SHA256).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_offline_says_what_is_missing_and_where_it_comes_from(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with pytest.raises(WeightsError) as caught:
        fetch_url(server.url, name="dino", size=" (about 84 MB)")
    message = str(caught.value)
    for part in ("dino: ", "about 84 MB", server.url, "HF_HUB_OFFLINE", str(folder), "--checkpoint"):
        assert part in message
    assert "\n" not in message
    assert server.asked == []


def test_a_file_that_is_not_there_is_one_line(server: Server, folder: Path) -> None:
    with pytest.raises(WeightsError, match=r"dino: .*absent\.pth are out of reach: HTTP 404") as caught:
        fetch_url(server.url.replace("weights", "absent"), name="dino")
    assert "\n" not in str(caught.value)
    assert left(folder) == []


def test_no_server_is_one_line(server: Server) -> None:
    with pytest.raises(WeightsError, match="refused"):
        fetch_url("http://127.0.0.1:9/weights.pth", name="dino")


def test_a_wrong_file_is_refused_and_removed(server: Server, folder: Path) -> None:
    with pytest.raises(WeightsError, match=f"sha256 {SHA256[:16]}.*expected 00ff, and was removed"):
        fetch_url(server.url, name="dino", sha256="00ff")
    assert left(folder) == []


def test_a_wrong_file_that_somebody_put_there_is_refused_and_kept(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "weights.pth").write_bytes(b"other")
    with pytest.raises(WeightsError, match=f"expected {SHA256}; remove it"):
        fetch_url(server.url, name="dino", sha256=SHA256)
    assert left(folder) == ["weights.pth"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_resumed(server: Server, folder: Path, ranges: bool) -> None:
    server.breaks_after = 3000
    server.ranges = ranges
    with pytest.raises(WeightsError, match=r"after 3,000 of 10,240 bytes; run again"):
        fetch_url(server.url, name="dino")
    assert not (folder / "weights.pth").exists()
    server.breaks_after = None
    assert fetch_url(server.url, name="dino").read_bytes() == CONTENT
    assert server.asked == ["", "", "bytes=3000-"]
    assert left(folder) == ["weights.pth"]


@pytest.mark.parametrize("etag", ['"two"', ""])
def test_two_versions_of_a_file_are_never_mixed(server: Server, etag: str) -> None:
    server.breaks_after = 3000
    server.etag = etag or '"one"'
    with pytest.raises(WeightsError):
        fetch_url(server.url, name="dino")
    server.breaks_after, server.etag, server.content = None, etag and '"three"', CONTENT[::-1]
    assert fetch_url(server.url, name="dino").read_bytes() == CONTENT[::-1]


def test_other_schemes_are_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(WeightsError, match="no http address"):
        fetch_url((tmp_path / "secret").as_uri(), name="dino")


def card(**weights: str) -> BackboneCard:
    return BackboneCard("dino", "native", "vit_tiny/dino", 192, 16, weights=weights, parameters=5.5)


def test_a_card_names_a_url_and_what_the_file_is_kept_as(server: Server, folder: Path) -> None:
    path = fetch_card(card(url=server.url, file="dino_weights.pth"))
    assert path == folder / "dino_weights.pth"
    with pytest.raises(WeightsError, match=r"\(about 22 MB\)"):
        fetch_card(card(url=server.url.replace("weights", "absent")))


def test_a_card_without_a_file_is_refused(server: Server) -> None:
    with pytest.raises(WeightsError, match="names no file"):
        fetch_card(card(repo="someone/dino"))


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    endpoint = server.url.removesuffix("/some/weights.pth")
    template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
    local = template.replace(huggingface_hub.constants.ENDPOINT, endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", local)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return server


def test_a_card_names_a_file_of_the_hub(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = card(repo="someone/dino", file="weights.pth", revision=COMMIT)
    assert fetch_card(wanted).read_bytes() == CONTENT
    count = len(hub.asked)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch_card(wanted).read_bytes() == CONTENT
    assert len(hub.asked) == count


def test_a_file_the_hub_lacks_is_one_line(hub: Server) -> None:
    with pytest.raises(WeightsError, match=r"dino: .*someone/dino.*404") as caught:
        fetch_card(card(repo="someone/dino", file="absent.pth"))
    assert "\n" not in str(caught.value)
