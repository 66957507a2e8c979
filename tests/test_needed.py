"""What a graph's results do not need is left out, and a maximum is taken of values that are computed once."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nablax
from nablax.graph.classify import EXTREMES
from nablax.graph.needed import carriers, prepared
from nablax.graph.nodes import program
from nablax.graph.once import once_p
from nablax.graph.trace import trace

X = jnp.asarray(np.random.default_rng(2).normal(size=(64, 4)))
THIRDS = jnp.asarray([0, 0, 1])


def sums(x):
    """Entries that XLA may compute with one rounding or with two."""
    return 1.37 * jnp.sin(x) + 0.3


def of_entries(largest):
    """A model, its maxima and minima as `largest` takes them."""
    return lambda x: jnp.stack([largest(sums(x)) * x[0], largest(-sums(x * x)) * jnp.sum(x)])


def chosen(entries):
    """A maximum without a search for entries that are equal to it."""
    return entries[jnp.argmax(entries)]


def by_segment(entries):
    return jax.ops.segment_max(entries[:3], THIRDS, 2)[0]


def by_segment_chosen(entries):
    return chosen(entries[:2])


@pytest.mark.parametrize(
    "largest, expected",
    [(jnp.max, chosen), (lambda e: -jnp.min(-e), chosen), (by_segment, by_segment_chosen)],
    ids=["max", "min", "segments"],
)
@pytest.mark.parametrize("strategy", ["forward", "adjoint", "reverse_over_reverse"])
def test_derivatives_of_a_maximum_find_the_entry_that_it_is(largest, expected, strategy):
    # Plain JAX returns NaN for most of these samples: it compares a maximum with entries that it computes again.
    derive = nablax.hessian(of_entries(largest), strategy=strategy)
    reference = jax.jit(jax.vmap(jax.hessian(of_entries(expected))))
    np.testing.assert_allclose(jax.jit(derive)(X), reference(X), rtol=1e-12, atol=1e-12)


def in_steps(largest):
    step = lambda h, x: (jnp.sin(h) / 2 + largest(sums(h * x)) * x, None)
    return lambda x: jax.lax.scan(step, x, x)[0]


def while_below(largest):
    body = lambda i, h: jnp.sin(h) / 2 + largest(sums(h)) * h
    return lambda x: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, body(*c)), (0, x))[1]


def in_branches(largest):
    branches = [lambda x: largest(sums(x)) * x, lambda x: largest(-sums(x * x)) * jnp.sin(x)]
    return lambda x: jax.lax.cond(x[0] > 0, *branches, x)


def in_branches_of_steps(largest):
    step = lambda h, x: (jax.lax.cond(x > 0, lambda h: largest(sums(h)) * h, jnp.sin, h), None)
    return lambda x: jax.lax.scan(step, x, x)[0]


INSIDE = [
    (in_steps, "forward_over_reverse"),
    (in_steps, "forward_over_forward"),
    (while_below, "forward"),
    (in_branches, "adjoint"),
    (in_branches_of_steps, "adjoint"),
    (in_branches_of_steps, "reverse_over_reverse"),
]


@pytest.mark.parametrize("model, strategy", INSIDE)
def test_maxima_in_loops_and_branches(model, strategy):
    found = jax.jit(nablax.hessian(model(jnp.max), strategy=strategy))(X)
    expected = jax.jit(jax.vmap(jax.jacfwd(jax.jacfwd(model(chosen)))))(X)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-11)


def in_a_reference(x):
    kept = jax.new_ref(jnp.zeros(()))

    def body(_, h):
        kept[...] = kept[...] + jnp.max(jnp.sin(h))
        return h / 2

    return jax.lax.fori_loop(0, 2, body, x) * kept[...]


def test_mutable_arrays_are_refused():
    # Their derivatives were zero: what is stored is no result of an equation.
    for derive in (nablax.hessian(in_a_reference), nablax.jacobian(in_a_reference, strategy="forward")):
        with pytest.raises(nablax.errors.ModelTraceError, match="mutable array"):
            derive(X)
    with pytest.raises(nablax.errors.ModelTraceError, match="mutable array"):
        nablax.parameter_jacobian(lambda w, x: in_a_reference(w * x))(X[0], X).dense()


def test_tokens_are_not_mutable_arrays():
    model = lambda x: (jax.lax.after_all(jax.lax.create_token(x)), x**3)[1]
    np.testing.assert_allclose(nablax.hessian_diagonal(lambda x: model(x).sum())(X), 6 * X, rtol=1e-12)


def test_what_is_explained_are_the_lines_of_the_model():
    text = str(nablax.explain(in_branches(jnp.max), "hessian")(X))
    line = in_branches.__code__.co_firstlineno + 2
    assert f"test_needed.py:{line}" in text


def test_parameter_derivatives_of_a_maximum():
    model = lambda largest: lambda w, x: largest(w * jnp.sin(x) + 0.3)
    found = nablax.parameter_jacobian(model(jnp.max))(X[0], X).dense()
    reference = jax.vmap(jax.grad(model(chosen)), (None, 0))(X[0], X)
    np.testing.assert_allclose(found, reference, rtol=1e-12)


def graph(function, size=4):
    return prepared(jax.make_jaxpr(function)(jnp.ones(size)))


def test_only_the_operands_of_derived_maxima_are_computed_once():
    fences = lambda function: sum(eqn.primitive is once_p for eqn in graph(function).equations)
    assert fences(jnp.max) == 1
    assert fences(jax.nn.softmax) == 0  # its maximum carries no derivative
    assert fences(lambda x: jnp.argmax(x) * x) == 0
    assert len(EXTREMES) == 4


def test_what_serves_no_result_is_left_out_and_effects_stay():
    def model(x):
        jnp.max(x) * x
        jax.debug.print("kept", ordered=False)
        return jnp.sum(x)

    assert [eqn.primitive.name for eqn in graph(model).equations] == ["debug_print", "reduce_sum"]


def test_only_what_y_is_made_of_carries_derivatives():
    flat = graph(lambda x: (jnp.sum(x) ** 2, jnp.exp(x)))
    (v,) = flat.inputs
    assert carriers(flat, flat.outputs[:1]) == {v, *flat.outputs[:1], *flat.equations[0].outputs}
    nodes = program(flat, [v], derived=flat.outputs[:1]).nodes
    assert [eqn.primitive.name for node in nodes for eqn in node.equations] == ["reduce_sum", "integer_pow"]
    assert len(program(flat, [v]).nodes) == 3


def test_choices_that_carry_no_derivative_do_not_count():
    # logsumexp chooses whether its maximum is finite; nothing is derived by that
    traced = lambda function: trace(lambda v: [function(v).ravel()], [], jax.ShapeDtypeStruct((4,), jnp.float64))
    assert not traced(jax.nn.logsumexp).discards
    assert traced(lambda x: jnp.where(x > 0, jnp.sqrt(x), x)).discards
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jnp.all(nablax.hessian(lambda x: x - jax.lax.stop_gradient(jnp.max(x)))(X) == 0)


def test_auxiliary_results_that_are_not_finite_leave_derivatives_alone():
    model = lambda x: (jnp.sum(x**3), {"log": jnp.log(-(x**2)), "max": jnp.max(x / 0)})
    found, aux = jax.jit(nablax.hessian(model, strategy="adjoint", has_aux=True))(X)
    np.testing.assert_allclose(found, jax.vmap(jnp.diag)(6 * X), rtol=1e-12, atol=1e-12)
    assert jnp.all(jnp.isnan(aux["log"]))
    assert aux["max"].shape == (64,)


def test_gradients_go_through_auxiliary_results():
    model = lambda w, x: (jnp.sum(w * x**3), jnp.max(w * jnp.sin(x)))
    loss = lambda w: jnp.sum(nablax.laplacian(model, strategy="adjoint", has_aux=True)(w, X)[1])
    expected = jax.grad(lambda w: jnp.sum(jax.vmap(lambda x: chosen(w * jnp.sin(x)))(X)))(X[0])
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(X[0]), expected, rtol=1e-12)
