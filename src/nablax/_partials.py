"""Partial derivatives by name: what the residual of a differential equation is written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nablax._call import transform
from nablax._errors import OptionError
from nablax._options import Options
from nablax._sample import OneSample
from nablax._types import Model, PyTree
from nablax.batching.axes import InAxes
from nablax.graph.classify import Table
from nablax.strategies import Derivatives, Wants

MAX_ORDER = 4


def partials(
    model: Model,
    coordinates: str | Sequence[str],
    of: str | Sequence[str],
    *,
    outputs: str | Sequence[str] | None = None,
    wrt: int | None = None,
    in_axes: InAxes = None,
    out_axes: Any = 0,
    strategy: str = "auto",
    chunk_size: int | str | None = "auto",
    has_aux: bool = False,
    memory_budget: int | str | None = None,
    table: Table | None = None,
) -> Callable[..., dict[str, Any]]:
    """Partial derivatives by name, up to order 4; only those that are asked for are computed.

    Args:
        model: a function of one sample; this and the options from `wrt` on are those of `nablax.jacobian`. x must be a
            vector with one entry for each coordinate, or a single number.
        coordinates: the names of the entries of x, in their order: ``"t x"`` or ``["t", "x"]``.
        of: what to return: ``"u u_t u_xx"``. The part before the underscore names the output; behind it stand the
            coordinates, in any order, with or without underscores between them: ``u_xt``, ``u_t_x``.
        outputs: names of the entries of the output, for models with several: with ``outputs="u v p"``, ``of="u_x v_y
            p"`` gives a number for each sample. Without it, one name stands for the whole output.

    Returns:
        A function of ``(params, X, *rest)`` that returns a dict: name -> array (D, *y.shape), or (D,) with `outputs`.

    Raises:
        nablax.NablaxError: see `nablax.errors`; `OptionError` for names that cannot be read.

    Cost:
        2^k passes through the model for a chain of k derivatives; chains of one length go together.

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> wave = lambda x: jnp.sin(x[1] - 2 * x[0])
        >>> at = jnp.array([[0.0, 0.5], [1.0, 2.0]])
        >>> u = nablax.partials(wave, coordinates="t x", of="u_tt u_xx")(at)
        >>> bool(jnp.allclose(u["u_tt"], 4 * u["u_xx"]))
        True
    """
    coordinates, names = _names(coordinates, "coordinates"), _names(of, "of")
    output_names = None if outputs is None else _names(outputs, "outputs")
    picks = tuple((name, *_read(name, coordinates, output_names)) for name in names)
    bases = {name.partition("_")[0] for name in names}
    if output_names is None and len(bases) > 1:
        raise OptionError(
            f"of={' '.join(names)!r} speaks of several outputs, {', '.join(sorted(bases))}; say which entries of "
            f"the model's output they are, "
            f'for example outputs="{" ".join(sorted(bases))}".'
        )
    wants = Wants(frozenset(), tuple(dict.fromkeys(index for _, index, _ in picks)))
    named = Named(picks, len(coordinates), None if output_names is None else len(output_names))
    return transform("partials", model, wants, named, Options.of(locals()))


@dataclass(frozen=True)
class Named:
    """Present partial derivatives in a dict: name -> the whole output, or one entry of it.

    Attributes:
        picks: (name, sorted coordinate numbers, number of the output's entry or None).
        coordinates: how many entries x must have.
        outputs: how many entries the output must have, if they are named.
    """

    picks: tuple[tuple[str, tuple[int, ...], int | None], ...]
    coordinates: int
    outputs: int | None

    def check(self, sample: OneSample) -> None:
        if len(sample.x.shapes) != 1 or len(sample.x.shapes[0]) > 1 or sample.x.size != self.coordinates:
            raise OptionError(
                f"{self.coordinates} coordinates were named, but one sample of x has the shape(s) "
                f"{', '.join(map(str, sample.x.shapes))}; "
                f"partials needs a vector of shape ({self.coordinates},)"
                + (", or a single number." if self.coordinates == 1 else ".")
            )
        if self.outputs is not None and self.outputs != sample.y.size:
            raise OptionError(
                f"{self.outputs} outputs were named, but the model returns {sample.y.size} numbers for one sample; "
                f"name each of them."
            )

    def __call__(self, sample: OneSample, found: Derivatives) -> PyTree:
        assert found.partials is not None
        return {
            name: sample.output_tree(found.partials[index], inputs=0) if entry is None else found.partials[index][entry]
            for name, index, entry in self.picks
        }


def _names(given: str | Sequence[str], option: str) -> list[str]:
    names = given.split() if isinstance(given, str) else list(given)
    if not names or not all(isinstance(name, str) and name.replace("_", "a").isalnum() for name in names):
        raise OptionError(
            f'{option}={given!r} must be names separated by spaces, or a sequence of them, for example {option}="t x".'
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise OptionError(f"{option}={given!r} names {', '.join(repeated)} more than once.")
    if option != "of" and any("_" in name for name in names):
        raise OptionError(
            f"{option}={given!r} contains an underscore, which separates an output from its coordinates; rename it."
        )
    return names


def _read(name: str, coordinates: list[str], outputs: list[str] | None) -> tuple[tuple[int, ...], int | None]:
    """``u_xt`` -> (sorted numbers of its coordinates, number of its output or None)."""
    base, _, behind = name.partition("_")
    if outputs is not None and base not in outputs:
        raise OptionError(f"{name!r} speaks of the output {base!r}; outputs names {', '.join(outputs)}.")
    readings: list[list[str]] = [[]]
    for piece in filter(None, behind.split("_")):
        readings = [before + reading for before in readings for reading in _spell(piece, coordinates)]
    if len(readings) != 1:
        problem = "cannot be read as" if not readings else "can be read in several ways as"
        raise OptionError(
            f"{name!r} {problem} derivatives by the coordinates {', '.join(coordinates)}; separate them, for "
            f"example {base}_x_t."
        )
    if len(readings[0]) > MAX_ORDER:
        raise OptionError(
            f"{name!r} is a derivative of order {len(readings[0])}; partials serves orders up to {MAX_ORDER}."
        )
    return tuple(sorted(coordinates.index(c) for c in readings[0])), None if outputs is None else outputs.index(base)


def _spell(piece: str, coordinates: list[str]) -> list[list[str]]:
    """All ways to write `piece` as a sequence of coordinate names."""
    if not piece:
        return [[]]
    return [[c, *rest] for c in coordinates if piece.startswith(c) for rest in _spell(piece[len(c) :], coordinates)]
