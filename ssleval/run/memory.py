"""How many models of a sweep are in memory at once."""

from collections.abc import Sequence

from ssleval.backbones.zoo import packaged_zoo
from ssleval.core.backbone import Backbone
from ssleval.core.devices import free_memory
from ssleval.features import current_shard

MOST = 8
"""Models at once where the number is left open: beyond, decoding is a small part of the time of each."""

PART = 4
"""A model more may take one of so many parts of the free memory: loading takes twice its weights, and
activations, heads and searches the rest."""


def has_room(name: str, loaded: Sequence[Backbone], stated: int, device: str) -> bool:
    """Return, in all processes the same, whether a model may join those in memory.

    Args:
        name: of the model, whose card tells its size; without one it counts as the largest of the others.
        loaded: the models in memory.
        stated: how many models are wanted at once; 0 chooses by memory.
        device: where they are.
    """
    if stated or len(loaded) >= MOST:
        return len(loaded) < stated
    card = packaged_zoo().get(name.removeprefix("random:"))
    size = round(4e6 * card.parameters) if card is not None else 0
    room = PART * (size or max(map(_bytes_of, loaded))) <= free_memory(device)
    return all(current_shard().exchange(f"memory for {name}", room))


def _bytes_of(backbone: Backbone) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in backbone.state_dict().values())
