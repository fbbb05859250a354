"""`ssleval train`: train a backbone on images alone, with DINO and what grew out of it."""

from pathlib import Path
from typing import Annotated

from typer import Option

from ssleval.cli import options
from ssleval.cli.options import Device, Limit, notes, say, tell


@options.grouped
def train_command(
    *,
    out: Annotated[Path, Option(help="Folder for the model, the log and the checkpoints.")],
    dataset: Annotated[str, Option(help="Name or source:location; its labels are not used.")] = "scenes",
    split: Annotated[str, Option(help="Splits to train on, comma list.")] = "train",
    recipe: Annotated[
        str, Option(help="dino, ibot, dinov2, dinov3_gram, ...; simclr, vicreg, lejepa, mae; or a YAML file.")
    ] = "dino",
    arch: Annotated[
        str | None, Option(help="vit_tiny, vit_small, ..., timm:resnet50; sizes: --set model.dim=192.")
    ] = None,
    patch_size: Annotated[int | None, Option(help="Pixels of a patch's side.")] = None,
    epochs: Annotated[int | None, Option(help="Passes over the images.")] = None,
    batch_size: Annotated[int | None, Option(help="Images a step, over all processes.")] = None,
    seed: Annotated[int | None, Option(help="Seed of everything random.")] = None,
    precision: Annotated[str | None, Option(help="fp32, bf16 or fp16.")] = None,
    set_: Annotated[
        list[str] | None, Option("--set", help="SECTION.FIELD=VALUE of the recipe; may be repeated.")
    ] = None,
    resume: Annotated[bool, Option(help="Go on from the last checkpoint in --out.")] = False,
    device: Device = "auto",
    data: options.Data,
    limit: Limit = None,
    skip_corrupt: Annotated[
        bool, Option(help="Train on the next image in place of a broken one; count these.")
    ] = False,
    quiet: Annotated[bool, Option(help="No progress, no notes.")] = False,
) -> None:
    """Train a backbone on a dataset's images; OUT/teacher.safetensors is then a model like any other.

    Examples:
      ssleval train --out run --epochs 10
      ssleval train --out run --dataset folder:photos --recipe ibot --arch vit_small --device cuda
    """
    from ssleval.features import current_shard
    from ssleval.train import read_config, train

    named = {
        "model.arch": arch, "model.patch_size": patch_size, "run.epochs": epochs,
        "run.batch_size": batch_size, "run.seed": seed, "run.precision": precision,
    }  # fmt: skip
    stated = [f"{name}={value}" for name, value in named.items() if value is not None]
    done = train(
        read_config(recipe, [*stated, *(set_ or ())]),
        dataset,
        out,
        splits=[name.strip() for name in split.split(",")],
        resume=resume,
        device=device,
        limit=limit,
        skip_corrupt=skip_corrupt,
        options=data.options(),
        show=not quiet,
        note=notes(quiet=quiet),
    )
    leads = current_shard().leads
    if not done.finished:
        if leads:
            say(f"ssleval: stopped after step {done.step}, which is saved; --resume goes on")
        raise SystemExit(143)
    if leads:
        tell(str(done.teacher))
