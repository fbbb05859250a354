"""ONNX graphs, run by onnxruntime: ``onnx:FILE``, or ``onnx:FILE?cls=true&registers=4&output=NAME``.

The file is data: operators are those of ONNX and of onnxruntime, and nothing beside the file is read. It has
one input, normalised images [b 3 H W] in float32 or float16. `Wrapped` takes its output apart.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.backbones.graphfiles import Graph, GraphFile, graph_loader
from ssleval.core.backbone import backbones
from ssleval.core.text import some
from ssleval.errors import ConfigError, WeightsError

_LARGEST = 1 << 31
"""Bytes: as many as a protocol buffer may have. Weights in files beside it are not read."""
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxGraph(Graph):
    """A graph as a module; its hash stands for the weights, which onnxruntime holds."""

    sha256: Tensor

    def __init__(self, file: GraphFile, name: str) -> None:
        super().__init__(file, name)
        if file.path.stat().st_size > _LARGEST:
            raise WeightsError(f"{name}: {file.path.stat().st_size:,} bytes, at most {_LARGEST:,} are read")
        self._content = file.path.read_bytes()
        self._sessions: dict[torch.device, Any] = {}
        digest = hashlib.sha256(self._content).digest()
        self.register_buffer("sha256", torch.frombuffer(bytearray(digest), dtype=torch.uint8))
        session = self._session(torch.device("cpu"))
        self.input, self.dtype, self.size = _input(session, name)
        self.output = _output(session, file.output, name)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Tensor:
        """Run the graph on the device of the images."""
        device = images.device
        if torch.is_autocast_enabled(device.type):
            raise ConfigError(
                f"{self.name}: a graph computes as it was exported; leave it at --precision fp32"
            )
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            height, width = images.shape[-2:]
            raise ConfigError(
                f"{self.name}: {height}x{width} pixels, but the graph is of {self.size[0]}x{self.size[1]}; "
                "use a geometry of that size (--set TASK.preprocessing=card), or export it with dynamic axes"
            )
        pixels = images.detach().cpu().numpy().astype(self.dtype)
        (output,) = self._session(device).run([self.output], {self.input: pixels})
        return torch.from_numpy(np.asarray(output, np.float32)).to(device)

    def _session(self, device: torch.device) -> Any:
        if device not in self._sessions:
            self._sessions[device] = _opened(self._content, device, self.name)
        return self._sessions[device]


def _opened(content: bytes, device: torch.device, name: str) -> Any:
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(f"{name}: needs onnxruntime; pip install 'ssleval[onnx]'") from error
    runtime: Any = onnxruntime
    provider = _PROVIDERS.get(device.type)
    if provider not in runtime.get_available_providers():
        known = some([kind for kind, one in _PROVIDERS.items() if one in runtime.get_available_providers()])
        raise ConfigError(
            f"{name}: this onnxruntime does not run on {device.type}, but on {known}; choose --device "
            "cpu, or for CUDA pip install onnxruntime-gpu"
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    # The hash is of this file: weights elsewhere would not be in it.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/nonexistent")
    chosen: Any = (provider, {"device_id": device.index or 0}) if device.type == "cuda" else provider
    try:
        return runtime.InferenceSession(content, options, providers=[chosen])
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        advice = (
            "export it as one file" if "xternal data" in reason else "it is damaged, or of newer operators"
        )
        raise WeightsError(f"{name}: no graph that onnxruntime runs; {advice} ({reason})") from error


def _input(session: Any, name: str) -> tuple[str, Any, tuple[int, int] | None]:
    """Return name and type of the one input, and the size of images where it is fixed."""
    inputs: list[Any] = session.get_inputs()
    shown = some([f"{one.name} {one.type} {one.shape}" for one in inputs])
    shape: list[Any] = inputs[0].shape if len(inputs) == 1 else []
    fits = (
        len(shape) == 4 and (shape[1] == 3 or not isinstance(shape[1], int)) and not isinstance(shape[0], int)
    )
    if not fits or inputs[0].type not in _TYPES:
        raise ConfigError(
            f"{name}: its input is {shown}; expected one, of floats [batch, 3, height, width] with a dynamic "
            "batch: export it again (dynamic_axes={'images': {0: 'batch'}})"
        )
    fixed = all(isinstance(side, int) for side in shape[2:])
    return inputs[0].name, _TYPES[inputs[0].type], (shape[2], shape[3]) if fixed else None


def _output(session: Any, wanted: str, name: str) -> str:
    names = [one.name for one in session.get_outputs()]
    if wanted in names or (not wanted and len(names) == 1):
        return wanted or names[0]
    raise ConfigError(f"{name}: its outputs are {some(names)}; name one as onnx:FILE?output={names[0]}")


backbones.register("onnx")(graph_loader("onnx", OnnxGraph))
