"""Prompts for models with a text tower: the texts that represent each class of a dataset.

A prompt is a template with a class name inserted. For the sets in CLIP's paper the templates are OpenAI's
(``templates.yaml``); `scenes` has its own; all other sets use "a photo of a {}.". ImageNet and the sets that
reuse its classes have folders named by WordNet id; their class names are OpenAI's curated ones as OpenCLIP
lists them (``imagenet.tsv``). Those of Caltech-101 are CLIP's curated ones (``caltech101.tsv``), by folder.
Class names that are no words are refused, but for aircraft, whose variants are called 707-320.
"""

import re
from functools import cache
from pathlib import Path

import yaml

from ssleval.core import DatasetCard, digest
from ssleval.core.registry import suggestion
from ssleval.datasets.published import read_lines
from ssleval.datasets.scenes.captions import class_prompts as scene_prompts
from ssleval.errors import ConfigError, DataError, UnknownNameError

__all__ = ["Prompts", "class_prompts", "imagenet_names", "pinned", "template_sets", "templates_for"]

_AS_THEY_ARE = {"aircraft", "torchvision:FGVCAircraft", "objectnet"}
"""Sets whose class names may be numbers, or have a stroke."""

Prompts = tuple[tuple[str, ...], ...]
"""The texts of each class, in label order."""


def class_prompts(card: DatasetCard, templates: str, class_names: str = "dataset") -> Prompts:
    """Return the texts of every class.

    Args:
        card: of the opened dataset, which has class names.
        templates: a set of `template_sets`, ``scenes``, or a text file with one template per line.
        class_names: ``dataset``, or a text file with one name per line, in label order.

    Raises:
        UnknownNameError: there is neither such a set of templates nor such a file.
        ConfigError: a template has no place for the name, a name is no word, or there are too few names.
    """
    if templates == "scenes":
        if card.name != "scenes" or class_names != "dataset":
            raise ConfigError(f"templates 'scenes' are for its own categories, not for {card.name}")
        return tuple(scene_prompts(label) for label in range(card.num_classes))
    lines = _templates(templates)
    names = _words(card, templates) if class_names == "dataset" else _listed(card, Path(class_names))
    return tuple(tuple(line.replace("{}", name) for line in lines) for name in names)


def templates_for(card: DatasetCard) -> str:
    """Return the name of the set of templates that published results of a dataset use."""
    if card.name.startswith("imagenet") or card.name in {"objectnet", "dollar_street"}:
        return "imagenet"
    name = "cifar" if card.name in {"cifar10", "cifar100"} else card.name
    return name if name == "scenes" or name in template_sets() else "simple"


def pinned(task: str, card: DatasetCard, templates: str, class_names: str, sha256: str) -> tuple[str, str]:
    """Return the set of templates in place of ``dataset``, and the hash of all prompts.

    Another hash than ``sha256`` is refused, unless that is empty.
    """
    templates = templates_for(card) if templates == "dataset" else templates
    actual = digest(class_prompts(card, templates, class_names))
    if sha256 not in {"", actual}:
        raise ConfigError(f"{task}: prompts of {card.name} have sha256 {actual}, not {sha256}")
    return templates, actual


@cache
def template_sets() -> dict[str, tuple[str, ...]]:
    """Return the packaged templates by set; ``{}`` stands for the class name."""
    content = yaml.safe_load(_beside("templates.yaml"))
    return {name: tuple(lines) for name, lines in content.items()}


def imagenet_names() -> dict[str, str]:
    """Return the class names of ImageNet-1k by WordNet id, in label order."""
    return _table("imagenet.tsv")


@cache
def _table(name: str) -> dict[str, str]:
    rows = (line.partition("\t") for line in _beside(name).splitlines())
    return {folder: words for folder, _, words in rows}


def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _templates(name: str) -> tuple[str, ...]:
    if name in template_sets():
        return template_sets()[name]
    lines = _lines(Path(name), f"no templates {name!r}; {suggestion(name, [*template_sets(), 'scenes'])}")
    wrong = [line for line in lines if line.count("{}") != 1]
    if wrong:
        raise ConfigError(f"{name}: template {wrong[0]!r} needs {{}} once, where the class name goes")
    return lines


def _words(card: DatasetCard, templates: str) -> tuple[str, ...]:
    """Return the class names of a dataset as words, underscores as spaces."""
    names = card.class_names
    if card.name == "dollar_street" or (card.name.startswith("imagenet") and card.name != "imagenet9"):
        known = imagenet_names()
        # The folders of V2 are named by ImageNet label, all others by WordNet id.
        ids = [list(known)[int(name)] if name.isdigit() else name for name in names]
        strange = [wnid for wnid in ids if wnid not in known]
        if strange:
            raise ConfigError(f"{card.name}: {strange[0]} is none of the 1,000 classes of ImageNet-1k")
        return tuple(known[wnid] for wnid in ids)
    if card.name == "caltech101":
        return tuple(_table("caltech101.tsv").get(name, name.replace("_", " ")) for name in names)
    if card.name in _AS_THEY_ARE:
        return names
    wrong = [name for name in names if not _is_word(name) and templates != "digits"]
    if wrong or not names:
        raise ConfigError(
            f"{card.name}: class name {wrong[0] if wrong else ''!r} is no word to show a text tower; "
            "--set zeroshot.class_names=FILE with one name a line, in label order"
        )
    return tuple(name.replace("_", " ") for name in names)


def _is_word(name: str) -> bool:
    """Return whether a name is a word, not a number, a path or a WordNet id."""
    return bool(re.search(r"[^\W\d_]", name)) and not re.fullmatch(r"n\d{8}", name) and "/" not in name


def _listed(card: DatasetCard, path: Path) -> tuple[str, ...]:
    names = _lines(path, f"no file of class names {str(path)!r}")
    if len(names) != card.num_classes:
        raise ConfigError(f"{path}: {len(names)} class names, {card.name} has {card.num_classes} classes")
    return names


def _lines(path: Path, otherwise: str) -> tuple[str, ...]:
    if not path.is_file():
        raise UnknownNameError(otherwise)
    try:
        lines = tuple(read_lines(path))
    except DataError as error:
        raise ConfigError(str(error)) from error
    if not lines:
        raise ConfigError(f"{path}: empty; it needs one text a line")
    return lines
