"""The traced one-sample function: what it computes, without any derivative maths."""

from nablax.graph.trace import Bound, Graph, trace

__all__ = ["Bound", "Graph", "trace"]
