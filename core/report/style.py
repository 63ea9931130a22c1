"""How methods look in charts: colours that colour-blind readers tell apart, dashes and markers."""

from __future__ import annotations

# Okabe & Ito 2008, without yellow and black, which vanish on a white or dark page; grey instead.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#808080")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "hexagon")


def looks(at: int) -> tuple[str, str, str]:
    """Colour, dash and marker of the method at a place; unlike for the first 49 methods."""
    turn = at + at // len(COLORS)
    return COLORS[at % len(COLORS)], DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)]
