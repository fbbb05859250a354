"""A miniature of NAVI: a sphere whose colours say where on it a point is, seen by known cameras."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transform

HEIGHT, WIDTH = 192, 256
RADIUS = 60.0
"""Millimetres."""


class Camera(NamedTuple):
    degrees: float
    """Turned around the vertical axis of the object."""
    shift: tuple[float, float, float] = (0.0, 0.0, 400.0)
    """Of the object's centre in the frame of the camera, in millimetres."""
    height: int = HEIGHT
    width: int = WIDTH
    focal: float = 300.0

    @property
    def turn(self) -> np.ndarray:
        angle = np.radians(self.degrees)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])

    @property
    def quaternion(self) -> list[float]:
        half = np.radians(self.degrees) / 2
        # Twice the unit length: it is the rotation that counts.
        return [2 * np.cos(half), 0.0, 2 * np.sin(half), 0.0]

    def surface(self) -> np.ndarray:
        """Return the point of the sphere at every pixel, in the frame of the camera; NaN beside it."""
        rows, columns = np.mgrid[: self.height, : self.width] + 0.5
        rays = np.stack(
            [(columns - self.width / 2) / self.focal, (rows - self.height / 2) / self.focal, 1 + 0 * rows], 2
        )
        square, along = (rays**2).sum(2), rays @ np.array(self.shift)
        inner = along**2 - square * ((np.array(self.shift) ** 2).sum() - RADIUS**2)
        return rays * ((along - np.sqrt(np.where(inner > 0, inner, np.nan))) / square)[..., None]

    def on_object(self) -> np.ndarray:
        """Return the same points in the frame of the object."""
        return (self.surface() - np.array(self.shift)) @ self.turn

    def encoded(self) -> np.ndarray:
        """Return depth as Google's code encodes it: inverse millimetres times 10 times 65535."""
        return np.nan_to_num(65535 * 10 / self.surface()[..., 2]).round().astype(np.uint16)

    def picture(self) -> Image.Image:
        colours = 128 + self.on_object() * 100 / RADIUS
        return Image.fromarray(np.nan_to_num(colours, nan=20).round().astype(np.uint8))

    def stated(self, name: str) -> dict[str, Any]:
        camera = {
            "q": self.quaternion,
            "t": list(self.shift),
            "focal_length": self.focal,
            "camera_model": "pixel_5",
        }
        fields = {
            "object_id": "ball",
            "camera": camera,
            "filename": name,
            "split": "train",
            "occluded": False,
        }
        return {**fields, "image_size": [self.height, self.width], "scene_name": "wild_set"}


def write_scene(folder: Path, cameras: Sequence[Camera]) -> None:
    for kind in ("images", "depth", "masks"):
        (folder / kind).mkdir(parents=True)
    for number, camera in enumerate(cameras):
        camera.picture().save(folder / f"images/{number:03}.jpg", quality=98, subsampling=0)
        Image.fromarray(camera.encoded()).save(folder / f"depth/{number:03}.png")
    stated = [camera.stated(f"{number:03}.jpg") for number, camera in enumerate(cameras)]
    (folder / "annotations.json").write_text(json.dumps(stated))


WILD = {
    "ball": tuple(Camera(angle, (8.0, -5.0, 400.0)) for angle in (0, 25, 50, 65, 95, 112, 130, 10, 20)),
    "globe": tuple(Camera(angle, (-20.0, 9.0, 380.0 + angle / 4)) for angle in (20, 45, 75, 0, 100, 60, 30)),
}
"""Cameras of the wild sets. The second object is called a ball in its annotations, which decides nothing."""


def write_navi(root: Path) -> Path:
    """Write two objects with a wild set and three multiview scenes, and what is left out."""
    for name, cameras in WILD.items():
        write_scene(root / name / "wild_set", cameras)
        for number in range(3):
            views = [Camera(20 * number + 5 * view) for view in range(3)]
            write_scene(root / name / f"multiview_0{number}_pixel_5", views)
        (root / name / "3d_scan").mkdir()
        write_scene(root / name / "video-00-pixel_5", [Camera(0)])
    write_scene(root / "alone" / "wild_set", [Camera(0)])
    (root / "custom_splits" / "pairs").mkdir(parents=True)
    (root / "LICENSE.txt").write_text("")
    return root


def as_probe3d(image: Image.Image, resampling: Image.Resampling) -> Tensor:
    """Return the central square ``[c 512 512]`` with the libraries that probe3d uses, uncropped."""
    factor = 1024 / min(image.size)
    small = image.resize((int(image.width * factor), int(image.height * factor)), resampling)
    pixels = torch.from_numpy(np.array(small)).reshape(small.height, small.width, -1).permute(2, 0, 1)
    nearest = transform.resize(pixels, [512], InterpolationMode.NEAREST)
    return transform.center_crop(nearest, [512, 512])


def box_of(known: np.ndarray) -> tuple[int, int, int]:
    """Return top, left and side of the square around pixels near the centre of an image."""
    rows, columns = np.nonzero(known)
    height, width = int(rows.max() - rows.min()), int(columns.max() - columns.min())
    side = max(height, width)
    return int(rows.min()) - (side - height) // 2, int(columns.min()) - (side - width) // 2, side


def enlarged(crop: Tensor) -> Tensor:
    """Return a crop ``[c s s]`` with 512 pixels a side, each the nearest."""
    return torch.nn.functional.interpolate(crop[None].double(), size=(512, 512), mode="nearest")[0]
