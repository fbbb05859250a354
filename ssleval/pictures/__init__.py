"""Pictures of what a frozen backbone sees: its patch tokens in colours, attention, matches, neighbours."""

from ssleval.pictures.draw import KINDS, draw
from ssleval.pictures.gather import gather
from ssleval.pictures.look import Look, Picture

__all__ = ["KINDS", "Look", "Picture", "draw", "gather"]
