"""What the two sweeps share: from wants to directions and forms, and back."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array

from nablax.graph import Graph
from nablax.graph.blocks import Blocks
from nablax.strategies.base import Derivatives, Wants, unit_vectors
from nablax.strategies.forms import Form, Halves, Pairs, Trace


class Request:
    """The directions along which tangents are needed, and the forms that are asked for.

    Attributes:
        coordinates: the inputs whose tangents are needed.
        forms: name of a want -> its form.
    """

    def __init__(self, wants: Wants, inputs: int, weights: Array | None) -> None:
        self.wants, self.inputs = wants, inputs
        self.coordinates = (
            sorted({c for index in wants.indices for c in index}) if wants.indices else list(range(inputs))
        )
        place = {c: k for k, c in enumerate(self.coordinates)}
        count = len(self.coordinates)
        self.forms: dict[str, Form] = {}
        if "hessian" in wants.names:
            self.forms["hessian"] = Pairs.triangle(count)
        if "hessian_diagonal" in wants.names:
            self.forms["diagonal"] = Pairs.diagonal(count)
        if "laplacian" in wants.names:
            self.forms["laplacian"] = Trace(weights)
        self.second = [index for index in wants.indices if len(index) == 2]
        if self.second:
            pairs = np.array([[place[c] for c in index] for index in self.second])
            self.forms["partials"] = Pairs(tuple(pairs[:, 0].tolist()), tuple(pairs[:, 1].tolist()), count)

    def directions(self, v: Array) -> Array:
        """(n, C): the unit vectors of the coordinates."""
        unit = unit_vectors(self.inputs, v.dtype)
        return unit if len(self.coordinates) == self.inputs else unit[np.array(self.coordinates, int)]

    def blocks(self, graph: Graph) -> Blocks | None:
        """The blocks of inputs that directions and forms may be narrowed to."""
        blocks = graph.blocks
        if blocks is None or len(self.coordinates) < self.inputs:
            return None
        within = [form.within(blocks.width) for form in self.forms.values()]
        apart = all(within) and (len(within) == 1 or not any(isinstance(form, Halves) for form in within))
        return blocks if apart else None

    def results(self, y: Array, columns: Array, rows: Mapping[str, Array], rest: list[Array]) -> Derivatives:
        """Derivatives from the value (A,), the tangents (n, A) and the rows (k, A) of every form; a Hessian may be
        whole: (A, n, n).
        """
        partials = None
        if self.wants.indices:
            known: dict[tuple[int, ...], Array] = {(): y}
            known |= {(c,): columns[k] for k, c in enumerate(self.coordinates)}
            known |= {index: rows["partials"][k] for k, index in enumerate(self.second)}
            partials = {index: known[index] for index in self.wants.indices}
        hessian = rows.get("hessian")
        if hessian is not None and hessian.ndim == 2:
            hessian = Pairs.triangle(len(self.coordinates)).matrix(hessian)
        return Derivatives(
            y,
            jnp.moveaxis(columns, 0, -1),
            hessian,
            jnp.moveaxis(rows["diagonal"], 0, -1) if "diagonal" in rows else None,
            rows["laplacian"][0] if "laplacian" in rows else None,
            partials,
            rest,
        )
