"""domains:ROOT, one folder for every domain, each with the same folders of classes: ROOT/DOMAIN/CLASS/IMAGE.

As PACS, VLCS, OfficeHome, TerraIncognita and DomainNet are unpacked. Every domain is a split, in the order of
their names; none of them is for training, since a task says which of its images a head is fitted on.
"""

from dataclasses import replace

from ssleval.core import Dataset, DatasetCard, DatasetOptions, datasets
from ssleval.datasets.files.images import class_folders, refuse_other_classes
from ssleval.datasets.files.listing import list_classes
from ssleval.datasets.files.places import located
from ssleval.errors import DataError


@datasets.register("domains")
def domains(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder of domains, each a folder of class folders."""
    root = located("domains", location)
    found = class_folders(root)
    if len(found) < 2:
        raise DataError(
            f"domains:{root}: one folder, {', '.join(found)}; it needs two domains, PATH/DOMAIN/CLASS/IMAGE"
        )
    names = class_folders(root / found[0])
    refuse_other_classes("domains", root, found, names)
    listed = {domain: list_classes(root / domain, names, options) for domain in found}
    lengths = {domain: len(images.paths) for domain, images in listed.items()}
    card = DatasetCard(
        f"domains:{location}", "label", names, lengths=lengths, test_split=found[0], domains=found
    )
    return Dataset(replace(card, source=str(root)), lambda split: listed[split].split())
