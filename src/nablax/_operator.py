"""The derivative of a model by its parameters, for all samples, as an operator: multiplied out only on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
from jax import Array

from nablax import _programs as programs
from nablax._cache import compiled, join_model, split_model
from nablax._errors import MemoryBudgetError, OptionError
from nablax._layout import Layout
from nablax._operands import Operands
from nablax._parametric import Parametric, Setting
from nablax._types import Model, PyTree, kind_of
from nablax.parameters.factors import Block
from nablax.parameters.gram import gram_in_pieces
from nablax.parameters.modes import join_rows
from nablax.planning import memory_of_device, readable


class ParameterJacobian(eqx.Module):
    """dY/dtheta of a model for D samples, A outputs and B parameters: an operator of shape (D, A, B).

    It is made by `nablax.parameter_jacobian`. It holds the model, its arguments and nothing else; each method computes
    what it returns, in chunks of samples, without the array (D, A, B) unless it is named after it. The methods are pure
    functions of the arguments: use them under `jax.jit` and differentiate through them. The operator is a pytree.

    A scalar output has no axis A; the axes of an output of higher rank stand where A does; an output that is a pytree
    counts as one vector. B counts the entries of the parameters in the order of `jax.flatten_util.ravel_pytree`. In
    ``mode="complex"``, a complex leaf has two coordinates for each entry: all real parts, then all imaginary parts.

    Attributes:
        shape: (D, *shape of one output, B).

    Example:
        >>> import jax.numpy as jnp, nablax
        >>> M, X = jnp.ones((2, 4)), jnp.ones((8, 4))
        >>> O = nablax.parameter_jacobian(lambda M, x: jnp.tanh(M @ x))(M, X)
        >>> O.shape, O.nbytes_dense, O.parameter_names[:2]
        ((8, 2, 8), 512, ['p[0,0]', 'p[0,1]'])
        >>> (O @ M).shape, (O.T @ jnp.ones((8, 2))).shape
        ((8, 2), (2, 4))
        >>> O.gram().shape, O.squared_norms().shape, O.fisher_diagonal().shape, O.fisher().shape
        ((8, 2, 8, 2), (8, 2), (2, 4), (8, 8))
        >>> O.dense().shape, O.tree().shape
        ((8, 2, 8), (8, 2, 2, 4))
        >>> O.centred().weighted(jnp.ones(8)).shape, O.rows(slice(0, 3)).shape
        ((8, 2, 8), (3, 2, 8))
    """

    _arrays: list[Any]
    _operands: Operands
    _rest: Any = eqx.field(static=True)

    @classmethod
    def of(cls, model: Model, args: tuple[PyTree, ...], setting: Setting, y: Layout) -> ParameterJacobian:
        """The operator of a model and its arguments, whose output is `y`."""
        arrays, rest = split_model(model)
        return cls(arrays, Operands(args, None, None, setting, y), rest)

    # ------------------------------------------------------------------------------------------------- what it is like

    @property
    def shape(self) -> tuple[int, ...]:
        return self._operands.shape

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The shape of one output; the outputs of a tree count as one vector."""
        return self._operands.y_shape

    @property
    def dtype(self) -> Any:
        """The dtype of the derivatives."""
        return self._operands.dtype

    @property
    def nbytes_dense(self) -> int:
        """Bytes that `dense` would take."""
        return self._operands.nbytes_dense

    @property
    def parameter_names(self) -> list[str]:
        """Names of the B coordinates, the path of the leaf and the place in it of each, such as ``layers/0/w[3,2]``."""
        return self._operands.coordinates.names()

    def __repr__(self) -> str:
        o = self._operands
        treated = (", centred" if o.mean is not None else "") + (", weighted" if o.scale is not None else "")
        size = f"{o.samples} samples, {o.y.size} outputs, {o.coordinates.count} parameters"
        first = f"ParameterJacobian of {size} ({self.dtype}{treated}); {readable(self.nbytes_dense)} if dense"
        return self._traced().table(first)

    @property
    def T(self) -> AdjointParameterJacobian:
        """The adjoint, for ``O.T @ w`` with w of shape (D, A), which is a tree like the parameters.

        It is the transpose, conjugated: the gradient of ``Re sum(conj(w) * (O @ v))`` by v. For real outputs that is
        ``sum_{d,a} w[d,a] dY[d,a]/dtheta``, one backward pass. In ``mode="complex"`` it is Re(J^H w), the two numbers
        of a complex leaf as one complex number; in ``mode="holomorphic"`` it is J^H w.
        """
        return AdjointParameterJacobian(self)

    # ----------------------------------------------------------------------------------------------------- multiplying

    def __matmul__(self, v: PyTree) -> Array:
        """O @ v, the derivative of all outputs along v: (D, A).

        Args:
            v: a tree like the parameters, or a flat vector (B,).

        Cost:
            One forward pass with tangents.
        """
        return self._run(programs.jvp, self._operands.coordinates.direction(v))

    def gram(self, other: ParameterJacobian | None = None) -> Array:
        """J J^H: the inner products of the derivatives of all pairs of samples and outputs, (D, A, D', A').

        For a network that is the empirical neural tangent kernel. `other` is the operator of another batch, or of
        another model, with respect to the same parameters; None: this one.

        Cost:
            A backward passes, and products of factors: for a dense layer from H to K units, D^2 (H + A^2 K) operations
            where products of all derivatives would take D^2 A^2 H K.

        References:
            Novak, Sohl-Dickstein, Schoenholz 2022, arXiv 2206.08720, section 3.4 (structured derivatives).
        """
        partner = self if other is None else other
        found = join_rows(self.gram_of_rows(other), self._operands.y.size, 1)
        found = join_rows(found.conj(), partner._operands.y.size, 3).conj()
        return found.reshape(self._samples, *self.y_shape, partner._samples, *partner.y_shape)

    def gram_of_rows(self, other: ParameterJacobian | None = None) -> Array:
        """`gram` with the real and imaginary parts of complex outputs as rows of their own: (D, R, D', R')."""
        if other is not None:
            self.check_partner(other)
        partner = self if other is None else other
        mine, its = self._operands, partner._operands
        right = None if other is None else other._factors()
        found = gram_in_pieces(self._factors(), right, mine.setting.budget)
        turned = jnp.moveaxis(mine.scaled(mine.centred(found)), (2, 3), (0, 1))
        return jnp.moveaxis(its.scaled(its.centred(turned)), (0, 1), (2, 3))

    # --------------------------------------------------------------------------------------------------- one at a time

    def squared_norms(self) -> Array:
        """sum_b |J[d, a, b]|^2, the squared norm of the gradient of every output of every sample: (D, A).

        Cost:
            A backward passes without the gradients of the weights; of the order of H + K more for each dense layer.
        """
        return self._run(programs.squared_norms)

    def fisher_diagonal(self, weights: Any = None) -> PyTree:
        """sum_{d,a} w[d,a] |J[d,a,b]|^2 for every parameter b: a tree like the parameters, of real numbers.

        Args:
            weights: w, (D,) or (D, A); None: ones.

        Returns:
            A tree like the parameters. In ``mode="complex"``, a complex leaf has an axis of length two in front, the
            real and the imaginary parts.

        Cost:
            A backward passes, and for a dense layer at one position D H K operations for each output.
        """
        return self._run(programs.fisher_diagonal, self._operands.row_weights(weights))

    def clipped_mean(self, max_norm: Any) -> PyTree:
        """The mean over samples of the gradients, each scaled down to the norm `max_norm` where it is longer.

        What differentially private training needs (DP-SGD, Abadi et al. 2016, arXiv 1607.00133), for a scalar output.
        The gradients are never formed: their norms and their weighted sum are computed from the same factors (Bu et al.
        2023, arXiv 2210.00038).

        Returns:
            A tree like the parameters.

        Cost:
            That of one ordinary gradient of the mean loss, and of `squared_norms`.
        """
        if self.y_shape != ():
            raise OptionError(
                f"clipped_mean needs one gradient for each sample, and the output has shape {self.y_shape}; it is for "
                "a scalar function, as nablax.per_sample_gradients(loss) makes."
            )
        if self._operands.mean is not None:
            raise OptionError("clipped_mean of a centred operator is not supported; clip the gradients themselves.")

        return self._run(programs.clipped_mean, jnp.asarray(max_norm, self._operands.real_dtype))

    # -------------------------------------------------------------------------------------------------- multiplied out

    def dense(self) -> Array:
        """All derivatives as one array (D, A, B).

        Raises:
            MemoryBudgetError: it is larger than ``memory_budget``, or without one than the memory of the device.

        Cost:
            A backward passes, and D A B numbers of memory, which take most of the time.
        """
        self._check_fits("dense()", self.nbytes_dense)
        return self._run(programs.dense)

    def tree(self) -> PyTree:
        """`dense` as a tree like the parameters, each leaf (D, A, *shape of the parameter).

        In ``mode="complex"``, a complex leaf has an axis of length two after A, its real and its imaginary part.
        """
        self._check_fits("tree()", self.nbytes_dense)
        return self._run(programs.tree)

    def fisher(self, weights: Any = None) -> Array:
        """J^H W J, summed over samples and outputs: (B, B).

        The Fisher matrix of a Gaussian likelihood, the Gauss-Newton matrix of a least-squares loss. In
        ``mode="complex"`` it is Re(J^H W J).

        Args:
            weights: W, (D,) or (D, A); None: ones.

        Cost:
            D A B^2 operations, and B^2 numbers of memory.
        """
        self._check_fits("fisher()", self.shape[-1] ** 2 * self.dtype.itemsize)

        return self._run(programs.fisher, self._operands.row_weights(weights))

    # ------------------------------------------------------------------------------------------------- other operators

    def centred(self, weights: Any = None) -> ParameterJacobian:
        """The operator of J minus its mean over the samples, as stochastic reconfiguration needs it.

        Args:
            weights: of the mean, (D,); they are divided by their sum. None: all equal.
        """
        if self._operands.scale is not None:
            raise OptionError(
                "centred() of a weighted operator would mix the two; centre first and weight the result: "
                "O.centred().weighted(w)."
            )
        D, real = self._samples, self._operands.real_dtype
        w = jnp.ones(D, real) if weights is None else jnp.asarray(weights, real)
        if w.shape != (D,):
            raise OptionError(f"the weights of the mean have shape {w.shape}; give one for each sample, ({D},).")
        # Centring twice is centring once, with the weights of the second: (1 - 1 q^T) (1 - 1 p^T) = 1 - 1 q^T.
        return self._with(replace(self._operands, mean=w / jnp.sum(w)))

    def weighted(self, weights: Any) -> ParameterJacobian:
        """The operator with every row times its weight, real numbers of shape (D,) or (D, A)."""
        o = self._operands
        w = o.row_weights(weights)
        return self._with(replace(o, scale=w if o.scale is None else o.scale * w))

    def rows(self, samples: slice) -> ParameterJacobian:
        """The operator of a part of the samples."""
        if not isinstance(samples, slice):
            raise OptionError(f"rows was given {kind_of(samples)}; give a slice, for example O.rows(slice(0, 100)).")
        if self._operands.mean is not None:
            raise OptionError("rows of a centred operator would forget the mean; take the rows first, then centre.")
        if len(range(*samples.indices(self._samples))) == 0:
            raise OptionError(f"rows({samples}) of {self._samples} samples is empty; name at least one.")
        return self._with(self._operands.part(samples))

    def as_lineax(self, of: str = "jacobian") -> lineax.AbstractLinearOperator:
        """A linear operator for lineax: the Jacobian from parameter trees to (D, A), or one of its two products.

        Args:
            of: "jacobian"; "fisher", J^H J, from parameter trees to parameter trees; "gram", J J^H, on arrays (D, A).
                The products carry the tag `lineax.positive_semidefinite_tag`.
        """
        params = jax.eval_shape(lambda: self._operands.params)
        outputs = jax.ShapeDtypeStruct(self.shape[:-1], self._operands.y.dtype)
        if of == "jacobian":
            return lineax.FunctionLinearOperator(lambda v: self @ v, params)
        if of == "fisher":
            product, structure = (lambda v: self.T @ (self @ v)), params
        elif of == "gram":
            product, structure = (lambda w: self @ (self.T @ w)), outputs
        else:
            raise OptionError(f'as_lineax(of={of!r}) is unknown; use "jacobian", "fisher" or "gram".')
        return lineax.FunctionLinearOperator(product, structure, lineax.positive_semidefinite_tag)

    # ---------------------------------------------------------------------------------------------------------- inside

    @property
    def _samples(self) -> int:
        return self._operands.samples

    def flat(self, tree: PyTree) -> Array:
        """The coordinates of a tree like the parameters as one vector (B,)."""
        return self._operands.coordinates.flat(tree)

    def unflat(self, vector: Array) -> PyTree:
        """The inverse of `flat`: a tree like the parameters."""
        return self._operands.coordinates.unflat(vector)

    def as_rows(self, outputs: Array) -> Array:
        """Numbers like the outputs as rows (D, R): a complex output has two, except in ``mode="holomorphic"``."""
        return self._operands.as_rows(outputs)

    def from_rows(self, rows: Array) -> Array:
        """The inverse of `as_rows`."""
        return self._operands.from_rows(rows)

    def aux(self) -> PyTree:
        """The auxiliary outputs of all samples, of a model that has them."""
        return self._run(programs.aux)

    def suspect(self) -> str | None:
        """The first operation that may keep the model from being holomorphic in its parameters."""
        return self._traced().suspect()

    def holomorphy_error(self) -> Array:
        """How far the Cauchy-Riemann equations are violated at these parameters and samples, relative to J."""
        return self._run(programs.holomorphy_error)

    def _factors(self) -> tuple[Block, ...]:
        return self._run(programs.factors)

    def _traced(self) -> Parametric:
        rest = self._rest
        return Parametric.of(
            lambda arrays: join_model(arrays, rest), self._arrays, self._operands.args, self._operands.setting
        )

    def _run(self, program: Callable[..., Any], *more: Any) -> Any:
        """Run one of `nablax._programs`, compiled once for the model and the shapes.

        The compiled function sees the model through `compiled` only, which does not keep it alive.
        """
        setting = self._operands.setting

        def build(rebuild: Callable[[list[Any]], Any]) -> Callable[..., Any]:
            def run(arrays: list[Any], operands: Operands, more: tuple[Any, ...]) -> Any:
                return program(operands, Parametric.of(rebuild, arrays, operands.args, setting), arrays, *more)

            return jax.jit(run, inline=True)

        model = join_model(self._arrays, self._rest)
        key = ("parameter_jacobian", program.__name__, setting)
        return compiled(model, key, build)(self._arrays, self._operands, more)

    def _with(self, operands: Operands) -> ParameterJacobian:
        return ParameterJacobian(self._arrays, operands, self._rest)

    def check_partner(self, other: ParameterJacobian) -> None:
        """Raise unless `other` has the same parameters and mode."""
        if not isinstance(other, ParameterJacobian):
            raise OptionError(f"gram was given {kind_of(other)}; give another ParameterJacobian, or nothing.")
        mine, its = (jax.eval_shape(lambda o=o: o._operands.params) for o in (self, other))
        same = jax.tree.structure(mine) == jax.tree.structure(its) and all(
            a.shape == b.shape for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(its), strict=True)
        )
        modes = self._operands.setting.mode, other._operands.setting.mode
        if not same or modes[0] != modes[1]:
            raise OptionError(
                "gram needs two operators with respect to the same parameters and in the same mode; the parameters "
                f"are {mine} (mode {modes[0]}) and {its} (mode {modes[1]})."
            )

    def _check_fits(self, what: str, size: int) -> None:
        budget = self._operands.setting.budget
        limit = memory_of_device() if budget is None else budget
        if isinstance(size, int) and size > limit:  # nothing is known of a symbolic number of samples
            bound = "the device has" if budget is None else "memory_budget allows"
            raise MemoryBudgetError(
                f"{what} of an operator of shape {self.shape} takes {readable(size)}, and {bound} {readable(limit)}. "
                "Use what never forms it: O @ v, O.T @ w, gram(), squared_norms(), fisher_diagonal(), clipped_mean(); "
                "or take it in pieces with rows(slice)."
            )


class AdjointParameterJacobian(eqx.Module):
    """The adjoint of a `ParameterJacobian`, see `ParameterJacobian.T`."""

    T: ParameterJacobian

    def __repr__(self) -> str:
        return f"adjoint of {self.T!r}"

    def __matmul__(self, w: Any) -> PyTree:
        operator = self.T
        expected = operator.shape[:-1]
        w = jnp.asarray(w)
        if w.shape != expected:
            raise OptionError(f"O.T @ w was given w of shape {w.shape}; it must have that of the outputs, {expected}.")
        if jnp.iscomplexobj(w) and not operator._operands.complex_output:
            raise OptionError("O.T @ w was given complex numbers, and the outputs are real; give real ones.")
        return operator._run(programs.vjp, w.reshape(expected[0], -1))
