"""The traced one-sample function: what it computes, without any derivative maths."""

from nablax.graph.trace import Graph, trace

__all__ = ["Graph", "trace"]
