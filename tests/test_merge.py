"""Equations that compute the same are merged, and nothing else is."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from perceptron import PARAMS, SECOND_ORDER, model
from perceptron import X as BATCH

import nablax
from nablax.graph.inline import equations, inline
from nablax.graph.merge import merged, traced


def count(function, *args):
    """name -> number of equations left of `function`."""
    flat = merged(inline(jax.make_jaxpr(function)(*args)))
    return collections.Counter(eqn.primitive.name for eqn in flat.equations)


X = jnp.array([0.5, -1.5, 2.0])


class TestWhatIsMerged:
    def test_the_same_values(self):
        assert count(lambda x: jnp.exp(x) * jnp.exp(x), X) == {"exp": 1, "mul": 1}
        assert count(lambda x: jnp.sum(jnp.exp(x)) + jnp.sum(jnp.exp(x)), X) == {"exp": 1, "reduce_sum": 1, "add": 1}

    def test_ones_and_zeros(self):
        ones, zeros = jnp.ones_like, jnp.zeros_like
        assert count(lambda x: (ones(x) * x + zeros(x)) / ones(x) - zeros(x), X) == {}
        assert count(lambda x: zeros(x) + jnp.exp(x) * ones(x), X) == {"exp": 1}

    def test_what_no_output_needs(self):
        assert count(lambda x: (jnp.sin(x), jnp.exp(x))[1], X) == {"exp": 1}

    @pytest.mark.parametrize(
        "function",
        [
            pytest.param(lambda x: x**2 * x**3, id="parameters"),
            pytest.param(lambda x: jnp.arctan2(0.0, x) + jnp.arctan2(-0.0, x), id="signs of zero"),
            pytest.param(lambda x: (x - 0.5) * (0.5 - x), id="order of operands"),
            pytest.param(lambda x: jnp.maximum(x, 1) * jnp.minimum(x, 1), id="primitives"),
            pytest.param(lambda x: 0.0 - x, id="zero in the wrong place"),
            pytest.param(lambda x: 1 / x, id="one in the wrong place"),
            pytest.param(lambda x: jnp.ones((2, 1)) * x[None], id="ones that broadcast"),
            pytest.param(lambda x: jnp.ones(3, jnp.complex64) * x, id="ones that convert"),
            pytest.param(lambda x: x.astype(jnp.float16) + x.astype(jnp.bfloat16), id="types"),
            pytest.param(lambda x: np.float32([1, 2, 3]) * x + np.float32([3, 2, 1]) * x, id="arrays"),
        ],
    )
    def test_what_differs_is_kept(self, function):
        expected, found = function(X), traced(function, X)(X)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)

    def test_each_draw_of_random_numbers(self):
        def function(key):
            first, second = jax.random.split(key)
            return jax.random.normal(first, (3,)) - jax.random.normal(second, (3,))

        key = jax.random.key(0)
        np.testing.assert_array_equal(traced(function, key)(key), function(key))

    def test_loops_and_branches(self):
        def function(x):
            step = lambda carry, _: (carry * x, jnp.sum(carry))
            end, sums = jax.lax.scan(step, x, None, length=3)
            return jax.lax.cond(sums[0] > 0, jnp.sin, jnp.cos, end) + jax.lax.cond(sums[0] > 0, jnp.cos, jnp.sin, end)

        np.testing.assert_allclose(traced(function, X)(X), function(X), rtol=1e-6)

    def test_derivatives_of_what_was_merged(self):
        function = lambda x: jnp.exp(jnp.sin(x)) * jnp.ones_like(x) + jnp.exp(jnp.sin(x)) ** 2
        check_grads(jax.jit(lambda x: traced(function, x)(x)), (X,), order=3)

    def test_draws_that_do_not_say_so(self):
        draw = lambda: jax.lax.rng_uniform(0.0, 1.0, (3,))
        assert count(lambda x: x * draw() - draw(), X)["rng_uniform"] == 2

    def test_rules_of_users(self):
        @jax.custom_jvp
        def f(x):
            return jnp.sin(x)

        f.defjvps(lambda tangent, y, x: 2 * tangent * jnp.cos(x))
        slope = jax.grad(lambda x: jnp.sum(traced(lambda x: f(x) + f(x), x)(x)))
        np.testing.assert_allclose(slope(X), 4 * jnp.cos(X), rtol=1e-12)

    def test_values_that_are_traced_around_it(self):
        slope = jax.grad(lambda a: jnp.sum(traced(lambda x: a * x + a * x, X)(X)))
        np.testing.assert_allclose(slope(3.0), 2 * jnp.sum(X), rtol=1e-12)

    def test_results_that_are_operands_or_constants(self):
        x, number, array = traced(lambda x: (x, 2.0, np.arange(3)), X)(X)
        np.testing.assert_array_equal(x, X)
        np.testing.assert_array_equal(array, [0, 1, 2])
        assert number == 2.0


@pytest.mark.parametrize("strategy", SECOND_ORDER)
def test_what_is_printed_stays(strategy, capsys):
    def printing(p, x):
        jax.debug.print("seen")
        return model(p, x)

    nablax.hessian(printing, strategy=strategy)(PARAMS, BATCH)
    jax.effects_barrier()
    assert "seen" in capsys.readouterr().out


@pytest.mark.parametrize("strategy", SECOND_ORDER)
def test_a_model_is_evaluated_once(strategy):
    """Whatever is derived of it, and where that is derived again."""
    derive = nablax.derivatives(model, "value", "jacobian", "hessian", strategy=strategy)
    loss = lambda params: sum(jnp.sum(leaf**2) for leaf in derive(params, BATCH).values())
    for function in (lambda params: derive(params, BATCH), jax.grad(loss)):
        found = collections.Counter(eqn.primitive.name for eqn in equations(jax.make_jaxpr(function)(PARAMS).jaxpr))
        assert found["tanh"] == 1
