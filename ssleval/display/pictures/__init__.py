"""Pictures of what a frozen backbone sees: its patch tokens in colours, attention, matches, neighbours."""

from ssleval.display.pictures.draw import KINDS, draw
from ssleval.display.pictures.gather import gather
from ssleval.display.pictures.look import Look, Picture

__all__ = ["KINDS", "Look", "Picture", "draw", "gather"]
