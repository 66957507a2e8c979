"""A model that reads something that changes between two calls gives the new values: no stale program is ever run."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
from reference import assert_close
from scenarios import Draw

import nablax

C, D = 3, 5
M, X = Draw("stale")(2, C), Draw("stale X")(D, C)
SCALE = jnp.asarray(1.0)
TABLE = np.ones(C)
SETTINGS = {"power": 2}


def reads_globals(x):
    return SCALE * x**2 + TABLE


def check_follows(f, change, X=X):
    before = nablax.jacobian(f)(X)
    assert_close(before, jax.vmap(jax.jacrev(f))(X))
    change()
    after = nablax.jacobian(f)(X)
    assert not np.allclose(before, after)
    assert_close(after, jax.vmap(jax.jacrev(f))(X))


def test_global_array(monkeypatch):
    check_follows(reads_globals, lambda: monkeypatch.setitem(globals(), "SCALE", jnp.asarray(3.0)))


def test_global_number_in_a_dict(monkeypatch):
    f = lambda x: x ** SETTINGS["power"]
    check_follows(f, lambda: monkeypatch.setitem(SETTINGS, "power", 3))


def test_variable_of_the_closure():
    scale = 1.0

    def f(x):
        return scale * x**2

    def change():
        nonlocal scale
        scale = 2.0

    check_follows(f, change)


def test_array_of_numpy_written_in_place():
    scale = np.ones(C)
    check_follows(lambda x: scale * x**2, lambda: scale.__setitem__(0, 2.0))


def test_list_of_the_closure():
    scales = [1.0]
    check_follows(lambda x: scales[0] * x**2, lambda: scales.__setitem__(0, 2.0))


def test_nested_containers():
    params = {"layers": [{"W": np.asarray(M)}]}
    check_follows(
        lambda x: params["layers"][0]["W"] @ x**2, lambda: params["layers"][0].__setitem__("W", 2 * np.asarray(M))
    )


def test_attribute_of_an_object():
    class Model:
        scale = 1.0

        def __call__(self, x):
            return self.scale * x**2

        def method(self, x):
            return self.scale * x**3

    for name in ("__call__", "method"):
        one = Model()
        check_follows(getattr(one, name), lambda one=one: setattr(one, "scale", 2.0))
    one = Model()
    check_follows(one, lambda: setattr(one, "scale", 2.0))


def test_object_with_slots():
    class Model:
        __slots__ = ("__weakref__", "scale")

        def __call__(self, x):
            return self.scale * x**2

    one = Model()
    one.scale = 1.0
    check_follows(one, lambda: setattr(one, "scale", 2.0))


def test_attribute_of_an_object_in_the_closure():
    holder = types.SimpleNamespace(inner=types.SimpleNamespace(scale=1.0))
    check_follows(lambda x: holder.inner.scale * x**2, lambda: setattr(holder.inner, "scale", 2.0))


def test_function_called_by_the_model():
    scale = 1.0

    def helper(x):
        return scale * x

    def change():
        nonlocal scale
        scale = 2.0

    check_follows(lambda x: helper(x) ** 2, change)


def test_default_argument():
    def f(x, scale=1.0):
        return scale * x**2

    check_follows(f, lambda: setattr(f, "__defaults__", (2.0,)))


def test_partial_with_an_array_of_numpy():
    scale = np.ones(C)
    check_follows(functools.partial(lambda s, x: s * x**2, scale), lambda: scale.__setitem__(0, 2.0))


def test_functions_that_share_their_code():
    models = [lambda x, k=k: jnp.sin(k * x) for k in (1.0, 2.0, 3.0)]
    for k, f in zip((1.0, 2.0, 3.0), models, strict=True):
        assert_close(nablax.hessian_diagonal(f)(X[:, :1])[:, 0, 0], -(k**2) * jnp.sin(k * X[:, 0]))


def test_new_function_at_the_address_of_a_dead_one():
    """An id is used again after its object died."""
    for k in range(1, 9):
        f = lambda x, k=k: x**k
        assert_close(nablax.jacobian(f)(X[:, 0]), k * X[:, 0] ** (k - 1))
        del f


def test_weights_are_arguments():
    for W in (np.ones(C), 2 * np.ones(C)):
        assert_close(nablax.laplacian(lambda x: jnp.sum(x**2), weights=W)(X), jnp.full(D, 2.0) * W.sum())
    W = np.ones(C)
    transform = nablax.laplacian(lambda x: jnp.sum(x**2), weights=W)
    before = transform(X)
    W *= 2
    assert_close(transform(X), 2 * before)


def test_float32_after_float64():
    f = lambda x: jnp.sin(x) * np.pi
    assert nablax.hessian(f)(X).dtype == jnp.float64
    with jax.enable_x64(False):
        assert nablax.hessian(f)(np.asarray(X, np.float32)).dtype == jnp.float32
    assert_close(nablax.jacobian(f)(X), jax.vmap(jax.jacrev(f))(X))


def test_traced_value_in_the_closure_is_not_kept():
    """After a gradient by a captured value, a plain call works."""

    def loss(k):
        f = lambda x: jnp.sin(k * x)
        return jnp.sum(nablax.jacobian(f)(X))

    with jax.checking_leaks():
        gradients = [jax.jit(jax.grad(loss))(k) for k in (1.0, 2.0)]
    assert_close(
        jnp.stack(gradients),
        jnp.stack([jax.grad(lambda k: jnp.sum(k * jnp.cos(k * X)) * 1.0)(k) for k in (1.0, 2.0)]),
        1e-9,
    )
    assert np.isfinite(loss(3.0))
