"""The libraries' real download code, against a cache folder and against a server on this machine.

Each check runs in a process of its own, for huggingface_hub reads its environment when imported.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from ssleval.backbones.weights.downloads import explained
from ssleval.backbones.zoo import find_card
from ssleval.core import BackboneCard
from ssleval.errors import WeightsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = ["hf:org/tiny", "timm:test_vit"]
ABSENT = ["hf:org/absent", "timm:test_resnet"]
PINNED = "openclip_vitb32_laion2b"
SMALL: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 512, "width": 16, "heads": 2, "layers": 1},
}
"""Stands for the architecture of `PINNED`, which is too large for a test."""
CHILD = """
import json, os, sys
if "SMALL_ARCHITECTURES" in os.environ:
    import open_clip
    open_clip.add_model_config(os.environ["SMALL_ARCHITECTURES"])
from ssleval.errors import SslevalError
from ssleval.backbones.zoo import load
loaded = {}
for name in sys.argv[1:]:
    try:
        backbone = load(name)
        state = backbone.model.state_dict()
        loaded[name] = {key: float(value.double().sum()) for key, value in state.items()}
    except SslevalError as error:
        loaded[name] = f"{type(error).__name__}: {error}"
print(json.dumps(loaded))
"""


def _repositories(folder: Path) -> dict[str, Path]:
    """Write two repositories with random weights."""
    folders = {"org/tiny": folder / "tiny", "timm/test_vit.r160_in1k": folder / "test_vit"}
    settings = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 32}, "resample": 3}
    settings |= {"crop_size": {"height": 28, "width": 28}, "do_center_crop": True}
    settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28)
        Dinov2Model(config).save_pretrained(folders["org/tiny"])
        (folders["org/tiny"] / "preprocessor_config.json").write_text(json.dumps(settings))
        folders["timm/test_vit.r160_in1k"].mkdir()
        model = timm.create_model("test_vit")
        save_file(model.state_dict(), folders["timm/test_vit.r160_in1k"] / "model.safetensors")
    return folders


def _run(cache: Path, *names: str, **environment: str) -> dict[str, dict[str, float] | str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    env = kept | {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", **environment}
    command = [sys.executable, "-c", CHILD, *(names or (*NAMES, *ABSENT))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout.splitlines()[-1])


def _is_loaded(loaded: dict[str, dict[str, float] | str]) -> None:
    for name in NAMES:
        assert isinstance(loaded[name], dict), loaded[name]
    tiny = loaded["hf:org/tiny"]
    assert isinstance(tiny, dict)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28)
        expected = Dinov2Model(config).state_dict()
    assert tiny == pytest.approx({key: float(value.double().sum()) for key, value in expected.items()})


def _cached(cache: Path, repository: str, revision: str, folder: Path) -> None:
    """Move the files of a repository to where the hub's library keeps them."""
    base = cache / "hub" / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text(COMMIT)
    (base / "snapshots").mkdir()
    folder.rename(base / "snapshots" / revision)


def _contrastive(folder: Path) -> dict[str, Tensor]:
    """Write the weights of a narrow two-tower model, one value a tensor but for its last entry."""
    state = {
        key: torch.full(value.shape, (index + 1) / 512, dtype=torch.float16)
        for index, (key, value) in enumerate(sorted(open_clip.CLIP(**SMALL).state_dict().items()))
    }
    for tensor in state.values():
        tensor.view(-1)[-1] = 0
    folder.mkdir()
    save_file(state, folder / "open_clip_model.safetensors")
    return state


Offline = tuple[dict[str, dict[str, float] | str], dict[str, Tensor]]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Offline:
    """Load models in a process without network; return what it loaded, and the tensors of `PINNED`."""
    folder = tmp_path_factory.mktemp("offline")
    for repository, files in _repositories(folder).items():
        _cached(folder / "cache", repository, COMMIT, files)
    card = find_card(PINNED)
    state = _contrastive(folder / "pinned")
    _cached(folder / "cache", card.weights["repo"], card.weights["revision"], folder / "pinned")
    (folder / "small").mkdir()
    (folder / "small" / f"{card.arch.partition('/')[0]}.json").write_text(json.dumps(SMALL))
    small = str(folder / "small")
    names = (*NAMES, *ABSENT, PINNED)
    return _run(folder / "cache", *names, HF_HUB_OFFLINE="1", SMALL_ARCHITECTURES=small), state


@pytest.mark.slow
def test_without_network_the_cache_serves_and_what_it_lacks_is_one_line(offline: Offline):
    loaded, _ = offline
    _is_loaded(loaded)
    for name in ABSENT:
        message = loaded[name]
        assert isinstance(message, str)
        assert message.startswith(f"WeightsError: {name}: ")
        assert "HF_HUB_OFFLINE is set" in message
        assert "--checkpoint FILE" in message
        assert "\n" not in message


@pytest.mark.slow
def test_open_clip_weights_come_from_the_cache_at_the_pinned_revision(offline: Offline):
    loaded, state = offline
    assert loaded[PINNED] == pytest.approx({key: float(value.double().sum()) for key, value in state.items()})


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the repositories the way the hub serves its files, and record the requested paths."""
    folders = _repositories(tmp_path)
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def _answer(self, *, body: bool) -> None:
            requests.append(self.path)
            repository, _, name = self.path.lstrip("/").partition("/resolve/main/")
            path = folders.get(repository, Path("none")) / name
            if not path.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_files_are_downloaded_from_the_endpoint(tmp_path: Path, hub: tuple[str, list[str]]):
    endpoint, requests = hub
    loaded = _run(tmp_path / "cache", HF_ENDPOINT=endpoint)
    _is_loaded(loaded)
    assert str(loaded["hf:org/absent"]).startswith("ConfigError: hf:org/absent: transformers finds no model")
    assert "404 Not Found" in str(loaded["timm:test_resnet"])
    assert "/org/tiny/resolve/main/model.safetensors" in requests
    assert "/timm/test_vit.r160_in1k/resolve/main/model.safetensors" in requests
    assert (tmp_path / "cache" / "hub" / "models--org--tiny" / "snapshots" / COMMIT).is_dir()


def test_a_gated_model_names_licence_page_and_token():
    card = BackboneCard("x", "hf", "org/x", 8, 8, weights={"repo": "org/x"}, gated=True, parameters=20.0)
    sentence = r"about 80 MB.*https://huggingface.co/org/x and set HF_TOKEN"
    with pytest.raises(WeightsError, match=sentence), explained(card):
        raise OSError("403 Forbidden")


def test_other_failures_pass_through():
    with pytest.raises(ZeroDivisionError), explained(BackboneCard("x", "hf", "org/x", 8, 8)):
        raise ZeroDivisionError


def test_what_libraries_log_of_retries_is_held_back(caplog: pytest.LogCaptureFixture):
    def fail() -> None:
        with explained(BackboneCard("x", "hf", "org/x", 8, 8)):
            logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
            raise OSError("no route")

    with pytest.raises(WeightsError):
        fail()
    assert not caplog.records
    logging.getLogger("huggingface_hub.utils._http").warning("heard again")
    assert caplog.messages == ["heard again"]
