"""`ssleval show`: pictures where people would rather look than read."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer
from typer import Argument, Option

from ssleval.cli import options
from ssleval.cli.commands import Command, Group
from ssleval.cli.options import Checkpoint, Device, Key, say, tell


class ModelGroup(Group):
    """Commands by name; other arguments begin with a model, and belong to the command `fallback`."""

    fallback: ClassVar[str] = "model"

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that ``args`` begin with, and what is left of them."""
        named = args[0] in self.commands
        return super().resolve_command(ctx, args if named else [self.fallback, *args])


show_app = typer.Typer(
    cls=ModelGroup,
    no_args_is_help=True,
    # Options may come before the model; they are the fallback's.
    context_settings={"ignore_unknown_options": True},
    help="Draw pictures: `ssleval show MODEL IMAGES --what pca`, `ssleval show scenes`.",
)

Out = Annotated[Path, Option(help="PNG file to write.")]


@show_app.command(name="model", cls=Command)
@options.grouped
def show_model(
    *,
    model: Annotated[str, Argument(help="A name of `ssleval ls models`, or source:identifier.")],
    images: Annotated[list[Path] | None, Argument(help="Image files; none: rows of --dataset.")] = None,
    what: Annotated[
        Literal["pca", "attention", "norms", "matches", "retrieval", "segmentation", "depth"],
        Option(help="pca, attention, norms, matches, retrieval, segmentation or depth."),
    ] = "pca",
    out: Annotated[Path | None, Option(help="PNG file to write; default: WHAT.png.")] = None,
    dataset: Annotated[
        str | None, Option(help="Where rows come from, and what a head is fitted on; default: scenes.")
    ] = None,
    rows: Annotated[str, Option(help="Rows of its scored split to look at: 0,5,9.")] = "",
    block: Annotated[int, Option(help="Block whose patch tokens are shown, negative from the end.")] = -1,
    size: Annotated[int, Option(min=0, help="Pixels of the long side; 0: the kind's own.")] = 0,
    limit: Annotated[int, Option(min=1, help="Images that a head is fitted on.")] = 500,
    data: options.Data,
    checkpoint: Checkpoint = None,
    key: Key = "teacher",
    card: options.Card,
    device: Device = "auto",
) -> None:
    """Draw what a model makes of images: tokens in colours, attention, norms, matches, neighbours, heads.

    Examples:
      ssleval show dino_scenes --what pca
      ssleval show dinov2_vits14 a.jpg b.jpg --what matches --out matches.png
    """
    from ssleval.backbones.zoo import load
    from ssleval.core import Context
    from ssleval.core.files import write_atomically
    from ssleval.display.pictures import Look, draw, gather

    context = Context(device=device, cache=data.folder)
    backbone = load(
        model, checkpoint=checkpoint, key=key, card=card.stated(), device=context.device, note=say
    )
    opened, pictures = gather(what, images or (), dataset, rows, data.options())
    look = Look(block, size, opened, limit, context)
    path = out or Path(f"{what}.png")
    picture = draw(backbone, pictures, what, look)
    write_atomically(path, lambda draft: picture.save(draft, format="PNG"))
    tell(str(path))


@show_app.command(name="classes", cls=Command)
@options.grouped
def show_classes(
    *,
    name: Annotated[str, Argument(help="A result file, a folder of one model, or a model's name.")],
    task: Annotated[str | None, Option(help="Of several results, those of this task.")] = None,
    dataset: Annotated[str | None, Option(help="Of several results, those on this dataset.")] = None,
    metric: Annotated[str, Option(help="The score; default: the one that ranks.")] = "",
    names: Annotated[bool, Option(help="Open the dataset for the names of classes.")] = False,
    confusion: Annotated[Path | None, Option(help="CSV file to write the confusion matrix into.")] = None,
    results: options.Results = Path("results"),
    data: options.Data,
    as_json: options.Json = False,
) -> None:
    """Print a stored score class by class, balanced accuracy, and what classes are taken for.

    Examples:
      ssleval show classes dino_scenes --task knn --dataset digits
      ssleval show classes results/pixels --task knn --dataset digits --names --confusion confusion.csv
    """
    from ssleval.core.files import write_text_atomically
    from ssleval.display import classes
    from ssleval.results.lookup import one_result

    opened = data.options() if names else None
    found = classes.by_class(one_result(name, results, task=task, dataset=dataset), metric, opened)
    if confusion is not None:
        write_text_atomically(confusion, classes.confusion_csv(found))
    if as_json:
        options.print_rows(classes.records(found))
    else:
        typer.echo(classes.markdown(found), nl=False)


@show_app.command(name="scenes", cls=Command)
def show_scenes(out: Out = Path("scenes.png")) -> None:
    """Draw the contact sheet of the embedded set: every kind of picture and of ground truth.

    Examples:
      ssleval show scenes
      ssleval show scenes --out sheet.png
    """
    from ssleval.datasets.scenes.sheet import draw_sheet

    draw_sheet(out)
    tell(str(out))


@show_app.command(name="train", cls=Command)
def show_train(
    folder: Annotated[Path, Argument(help="What ssleval train --out was given.")],
    out: Out = Path("curves.png"),
) -> None:
    """Draw the curves of a training: losses, signs of collapse, evaluations, schedules.

    Examples:
      ssleval show train run
      ssleval show train run --out run/curves.png
    """
    from ssleval.display.training_curves import draw_curves

    draw_curves(folder, out)
    tell(str(out))


@show_app.command(name="curves", cls=Command)
def show_curves(
    results: Annotated[Path, Argument(help="Folder of results.")] = Path("results"),
    out: Out = Path("curves.png"),
) -> None:
    """Draw scores by depth, by resolution or by training images, wherever results hold them.

    Examples:
      ssleval show curves
      ssleval show curves runs/layers --out layers.pdf
    """
    from ssleval.display.score_curves import draw_score_curves

    draw_score_curves(results, out)
    tell(str(out))
