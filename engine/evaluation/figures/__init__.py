"""Figures of an evaluation: one figure for each question, drawn from the tables with matplotlib."""

from saematch.evaluation.figures.draw import draw_all
from saematch.evaluation.figures.flow import draw_flow

__all__ = ["draw_all", "draw_flow"]
