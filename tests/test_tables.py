"""Primitives that a user teaches: the same numbers, and a faster kind of node."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from scenarios import Draw
from test_errors import raises

import nablax
from nablax import errors

C, D, H = 3, 5, 4
draw = Draw("test_tables")
W, X = draw(H, C), draw(D, C)

# sin(x)^2 as a primitive of its own, whose derivative is sin(2 x) = 2 sin(x) cos(x).
bump_p = Primitive("bump")
bump_p.def_impl(lambda x: jnp.sin(x) ** 2)
bump_p.def_abstract_eval(lambda x: x)
mlir.register_lowering(bump_p, mlir.lower_fun(lambda x: jnp.sin(x) ** 2, multiple_results=False))
batching.defvectorized(bump_p)
ad.defjvp(bump_p, lambda tangent, x: tangent * jnp.sin(2 * x))

# x[::-1] as a primitive of its own, with a transposition rule.
mirror_p = Primitive("mirror")
mirror_p.def_impl(lambda x: x[::-1])
mirror_p.def_abstract_eval(lambda x: x)
mlir.register_lowering(mirror_p, mlir.lower_fun(lambda x: jnp.flip(x, 0), multiple_results=False))
ad.deflinear(mirror_p, lambda cotangent: [mirror_p.bind(cotangent)])


def _batched_mirror(operands, axes):
    (x,), (axis,) = operands, axes
    return jnp.flip(jnp.moveaxis(x, axis, 0), 1), 0


batching.primitive_batchers[mirror_p] = _batched_mirror

TAUGHT = nablax.default_table.extended(elementwise=[bump_p], linear=[mirror_p])


def model(W, x):
    return mirror_p.bind(bump_p.bind(W @ x))


def reference(W, x):
    return (jnp.sin(W @ x) ** 2)[::-1]


MOVED = {
    "split": lambda x: jnp.split(x, [1])[1],
    "stack": lambda x: jnp.stack([x, x[::-1]]),
    "unstack": lambda x: jnp.unstack(jnp.outer(x, jnp.ones(2)), axis=1)[0],
    "tile": lambda x: jnp.tile(x, 2),
    "barrier": lambda x: jax.lax.optimization_barrier((x, 2 * x))[1],
}


@pytest.mark.parametrize("name", MOVED)
def test_what_only_moves_entries_about_is_linear(name):
    """JAX does not export these primitives by name."""
    assert nablax.explain(lambda x: MOVED[name](jnp.sin(x)), "hessian")(X).opaque == ()


def test_a_primitive_is_opaque_until_it_is_taught():
    found = nablax.explain(model, "hessian")(W, X)
    assert [group.primitive for group in found.opaque] == ["bump", "mirror"]
    assert "bump" in str(found)
    assert "test_tables.py:" in str(found)
    taught = nablax.explain(model, "hessian", table=TAUGHT)(W, X)
    assert taught.opaque == ()
    kinds = {group.primitives: group.kind for group in taught.nodes}
    assert (kinds["bump",], kinds["mirror",]) == ("elementwise", "linear")


@pytest.mark.parametrize("want", ["jacobian", "hessian", "hessian_diagonal", "laplacian"])
@pytest.mark.parametrize("strategy", ["forward", "forward_over_reverse"])
def test_the_same_values(want, strategy):
    expected = getattr(nablax, want)(reference)(W, X)
    for table in (None, TAUGHT):
        found = getattr(nablax, want)(model, strategy=strategy, table=table)(W, X)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_adjoint_uses_the_table():
    for table in (None, TAUGHT):
        found = nablax.hessian(model, strategy="adjoint", table=table)(W, X)
        np.testing.assert_allclose(found, nablax.hessian(reference)(W, X), rtol=1e-12, atol=1e-14)


def test_the_table_is_part_of_the_key():
    """A wrong promise gives other numbers, so a program of another table would be seen."""
    wrong = nablax.default_table.extended(linear=[bump_p, mirror_p])
    right = nablax.hessian(model, table=TAUGHT)(W, X)
    assert not np.any(nablax.hessian(model, strategy="forward", table=wrong)(W, X))
    np.testing.assert_array_equal(nablax.hessian(model, table=TAUGHT)(W, X), right)


def test_check_finds_a_wrong_promise():
    wrong = nablax.default_table.extended(linear=[bump_p, mirror_p])
    assert not nablax.check(model, "hessian", table=wrong, strategy="forward")(W, X).passed
    assert nablax.check(model, "hessian", table=TAUGHT)(W, X).passed


def test_partials_take_a_table():
    found = nablax.partials(model, "x y z", "u_xy", table=TAUGHT)(W, X)["u_xy"]
    np.testing.assert_allclose(found, nablax.hessian(reference)(W, X)[:, :, 0, 1], rtol=1e-12, atol=1e-14)


def test_a_table_is_a_table():
    with raises(errors.OptionError, "table is a list", "nablax.default_table.extended"):
        nablax.hessian(model, table=[bump_p])
    assert isinstance(nablax.default_table, nablax.Table)
    assert jax.tree.leaves(hash(nablax.default_table))
