"""Why this method: the facts of a problem, and the choice of a strategy and a chunk size for it."""

from nablax.planning.choose import Plan, choose
from nablax.planning.cost import chunk_size_for
from nablax.planning.problem import Problem

__all__ = ["Plan", "Problem", "choose", "chunk_size_for"]
