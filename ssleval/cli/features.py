"""`ssleval features`: features as a file of arrays."""

from pathlib import Path
from typing import Annotated

from typer import Option

from ssleval.cli import options
from ssleval.cli.options import tell
from ssleval.core.cachefolder import default_cache


def features_(
    model: Annotated[str, Option(help="A name of `ssleval ls models`, or source:identifier.")],
    out: Annotated[Path, Option(help="File to write: .npz or .parquet.")],
    dataset: Annotated[str, Option(help="A name or source:location.")] = "scenes",
    split: Annotated[str, Option(help="Split of the dataset.")] = "test",
    readout: Annotated[
        str, Option(help="Comma list: pooled, cls[-1], mean[-1], gem[-1], patches[-1], any block.")
    ] = "pooled",
    data_root: options.DataRoot = Path("data"),
    checkpoint: options.Checkpoint = None,
    key: options.Key = "teacher",
    image_mean: options.ImageMean = None,
    image_std: options.ImageStd = None,
    image_size: options.ImageSize = None,
    patch_size: options.PatchSize = None,
    resize: options.Resize = None,
    resize_mode: options.ResizeMode = None,
    interpolation: options.Interpolation = None,
    device: options.Device = "auto",
    precision: options.Precision = "fp32",
    pixels: options.Pixels = "exact",
    exif: options.Exif = False,
    num_workers: options.Workers = "auto",
    limit: options.Limit = None,
    cache: options.CacheDir = None,
    quiet: options.Quiet = False,
) -> None:
    """Write the features of one split with ids, labels and class names.

    Examples:
      ssleval features --model dino_scenes --out features.npz
      ssleval features --model dino_scenes --dataset digits --limit 50 --readout cls[-1] --out f.parquet
    """
    from ssleval.core import Context, DatasetOptions
    from ssleval.features import current_shard
    from ssleval.run.extracting import extract_features, refuse_suffix

    refuse_suffix(out)
    card = options.stated(
        mean=image_mean, std=image_std, image_size=image_size, patch_size=patch_size, resize=resize,
        resize_mode=resize_mode, interpolation=interpolation,
    )  # fmt: skip
    folder = cache or default_cache()
    context = Context(
        device, precision, 0, options.workers(num_workers), cache=folder, progress=not quiet, pixels=pixels
    )
    found = extract_features(
        model,
        dataset,
        split,
        readout.split(","),
        checkpoint=checkpoint,
        key=key,
        card=card,
        limit=limit,
        options=DatasetOptions(data_root, cache=folder, exif=exif),
        context=context,
    )
    if not current_shard().leads:
        return
    found.save(out)
    for name, array in found.arrays.items():
        tell(f"{out}: {name} {'x'.join(map(str, array.shape))} {array.dtype}")
