"""No positions at all: a causal mask alone already tells some order. Haviv et al. 2022, arXiv 2203.16634."""

from gptlab.model.positions.base import Position


class NoPosition(Position):
    pass
