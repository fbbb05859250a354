"""Which widths of tokens an attentive probe can divide among its parts."""

from ssleval.errors import NotApplicableError

CHANNELS_PER_HEAD = 64
"""Of CAPI's multi-head attention."""
ATTENTION_HEADS = 16
"""Of V-JEPA's."""
_PARTS = {"capi": CHANNELS_PER_HEAD, "vjepa": ATTENTION_HEADS}


def refuse_width(protocol: str, width: int, queries: int = 32) -> None:
    """Refuse tokens of so many channels that the heads of a protocol cannot divide, and say which can.

    Raises:
        NotApplicableError: the channels are no multiple of the ``queries`` of ep, or of what others need.
    """
    parts = _PARTS.get(protocol, queries)
    if width % parts == 0:
        return
    fitting = max(number for number in range(1, queries + 1) if width % number == 0)
    needed = f"{queries} queries" if protocol == "ep" else f"{parts}, which protocol={protocol} needs"
    other = "" if protocol == "ep" else "--set attentive.protocol=ep "
    raise NotApplicableError(
        f"attentive: {width} channels of a token are no multiple of {needed}; "
        f"{other}--set attentive.queries={fitting}"
    )
