"""Digital corruptions: contrast, elastic transform, pixelation and JPEG compression."""

from io import BytesIO

import numpy as np
import scipy
from jaxtyping import Float
from PIL import Image

from ssleval.features.corruptions.pixels import Pixels


def contrast(pixels: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    """Move every value towards the mean of its channel."""
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - mean) * kept + mean


def elastic_transform(pixels: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    """Warp by a random affine map, then by a smooth random displacement of every pixel."""
    strength, sigma, jitter = (
        244 * np.array(values)
        for values in ((2, 2, 0.05, 0.07, 0.12), (0.7, 0.08, 0.01, 0.01, 0.01), (0.1, 0.2, 0.02, 0.02, 0.02))
    )
    at = severity - 1
    height, width, _ = pixels.shape
    turned = _affine(pixels, random.uniform(-jitter[at], jitter[at], (3, 2)))
    down, right = (
        strength[at] * _smooth(random.uniform(-1, 1, (height, width)), float(sigma[at])) for _ in range(2)
    )
    rows, columns = np.mgrid[:height, :width]
    planes = [
        scipy.ndimage.map_coordinates(plane, (rows + down, columns + right), order=1, mode="reflect")
        for plane in np.moveaxis(turned, 2, 0)
    ]
    return np.stack(planes, axis=2)


def pixelate(pixels: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    """Downsample and upsample with box filters."""
    scale = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    image = _image(pixels)
    width, height = image.size
    small = image.resize((max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX)) / 255


def jpeg_compression(pixels: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    """Compress as JPEG and decode."""
    quality = (25, 18, 15, 10, 7)[severity - 1]
    file = BytesIO()
    _image(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file, formats=("JPEG",)) as image:
        return np.asarray(image) / 255


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def _affine(pixels: Pixels, shifts: Float[np.ndarray, "3 2"]) -> Pixels:
    """Apply the affine map that moves three points around the centre by ``shifts`` (row, column)."""
    height, width, _ = pixels.shape
    middle, reach = np.array([height, width]) // 2, min(height, width) // 3
    points = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    ones = np.ones((3, 1))
    # SciPy expects the inverse map: from a pixel of the result to where it comes from.
    back = np.linalg.solve(np.hstack([points + shifts, ones]), points)
    planes = [
        scipy.ndimage.affine_transform(plane, back[:2].T, back[2], order=1, mode="mirror")
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack(planes, axis=2)


def _smooth(field: Float[np.ndarray, "h w"], sigma: float) -> Float[np.ndarray, "h w"]:
    """Filter with a Gaussian, edges reflected, by the cosine transform: equally fast for any sigma."""
    bells = [np.exp(-((np.pi * np.arange(side) / side * sigma) ** 2) / 2) for side in field.shape]
    return np.asarray(
        scipy.fft.idctn(np.asarray(scipy.fft.dctn(field, norm="ortho")) * np.outer(*bells), norm="ortho")
    )
