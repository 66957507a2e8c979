"""Properties over random shapes, axes, ranks, structures, dtypes and programs; the same examples in every run.

The fuzzer asks the same of the whole; here each property stands alone, with references of its own: for `make slow`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import assert_close
from scenarios import Draw

import nablax
from nablax.batching.chunks import chunk_shape

pytestmark = pytest.mark.slow

SECOND_ORDER = ("auto", "forward_over_reverse", "forward_over_forward", "reverse_over_reverse", "forward", "adjoint")
HESSIAN = frozenset({"hessian", "hessian_diagonal", "laplacian"})
CHUNKS = st.sampled_from([None, "auto", 1, 2, 3])


def serves(strategy, wants):
    """The adjoint sweep is for second derivatives only; every other strategy has lower orders as by-products."""
    return strategy != "adjoint" or bool(HESSIAN & set(wants))


shapes = lambda most: st.lists(st.integers(1, 3), max_size=most).map(tuple)


def waves(x_shape, y_shape, samples):
    """y = sin(<W, x>) with W of shape (*y, *x), and its derivatives on paper: cos(z) W, -sin(z) W W."""
    draw = Draw(f"{x_shape} {y_shape} {samples}")
    W, X = draw(*y_shape, *x_shape), draw(samples, *x_shape)
    model = lambda W, x: jnp.sin(jnp.tensordot(W, x, x.ndim))
    outputs, inputs = int(np.prod(y_shape)), int(np.prod(x_shape))
    w = np.asarray(W).reshape(outputs, inputs)
    z = np.asarray(X).reshape(samples, inputs) @ w.T
    exact = {
        "value": np.sin(z).reshape(samples, *y_shape),
        "jacobian": (np.cos(z)[:, :, None] * w).reshape(samples, *y_shape, *x_shape),
        "hessian": (-np.sin(z)[:, :, None, None] * w[:, :, None] * w[:, None, :]).reshape(
            samples, *y_shape, *x_shape, *x_shape
        ),
        "hessian_diagonal": (-np.sin(z)[:, :, None] * w**2).reshape(samples, *y_shape, *x_shape),
        "laplacian": (-np.sin(z) * np.sum(w**2, -1)).reshape(samples, *y_shape),
    }
    return model, W, X, exact


@settings(max_examples=32)
@given(
    x_shape=shapes(3),
    y_shape=shapes(2),
    samples=st.integers(1, 5),
    want=st.sampled_from(["jacobian", "hessian", "hessian_diagonal", "laplacian"]),
    strategy=st.sampled_from(SECOND_ORDER),
    chunk_size=CHUNKS,
    data=st.data(),
)
def test_any_shapes_and_axes(x_shape, y_shape, samples, want, strategy, chunk_size, data):
    assume(serves(strategy, [want]))
    model, W, X, exact = waves(x_shape, y_shape, samples)
    in_axis = data.draw(st.integers(-X.ndim, X.ndim - 1), label="in_axis")
    rank = exact[want].ndim
    out_axis = data.draw(st.integers(-rank, rank - 1), label="out_axis")
    options = {"in_axes": (None, in_axis), "out_axes": out_axis, "strategy": strategy, "chunk_size": chunk_size}
    found = getattr(nablax, want)(model, **options)(W, jnp.moveaxis(X, 0, in_axis))
    assert_close(found, np.moveaxis(exact[want], 0, out_axis))


@settings(max_examples=15)
@given(
    wants=st.lists(
        st.sampled_from(["value", "jacobian", "hessian", "hessian_diagonal", "laplacian"]), min_size=1, unique=True
    ),
    strategy=st.sampled_from(SECOND_ORDER),
    chunk_size=CHUNKS,
)
def test_any_subset_of_wants(wants, strategy, chunk_size):
    assume(serves(strategy, wants))
    model, W, X, exact = waves((2, 2), (3,), 5)
    found = nablax.derivatives(model, *wants, strategy=strategy, chunk_size=chunk_size)(W, X)
    assert_close(found, {want: exact[want] for want in wants})


leaf_shapes = shapes(2)
trees = st.recursive(
    leaf_shapes.map(lambda shape: ("leaf", shape)),
    lambda inside: (
        st.lists(inside, min_size=1, max_size=2).map(lambda items: ("list", items))
        | st.dictionaries(st.sampled_from("ab"), inside, min_size=1).map(lambda items: ("dict", items))
    ),
    max_leaves=3,
)


def tree_of(spec, draw, samples):
    kind, inside = spec
    if kind == "leaf":
        return draw(samples, *inside)
    if kind == "list":
        return [tree_of(item, draw, samples) for item in inside]
    return {key: tree_of(item, draw, samples) for key, item in inside.items()}


@settings(max_examples=15)
@given(inputs=trees, outputs=trees, strategy=st.sampled_from(SECOND_ORDER), chunk_size=CHUNKS)
def test_any_trees(inputs, outputs, strategy, chunk_size):
    """Nested as `jax.hessian` nests, whatever goes in and comes out."""
    draw = Draw(repr((inputs, outputs)))
    X = tree_of(inputs, draw, 4)
    factors = jax.tree.map(lambda leaf: leaf[0], tree_of(outputs, draw, 1))

    def model(factors, x):
        s = sum(jnp.sum(jnp.sin((n + 1.0) * leaf)) for n, leaf in enumerate(jax.tree.leaves(x)))
        return jax.tree.map(lambda factor: jnp.cos(factor * s), factors)

    found = nablax.derivatives(model, "jacobian", "hessian", strategy=strategy, chunk_size=chunk_size)(factors, X)
    exact = jax.jit(jax.vmap(lambda p, x: (jax.jacrev(model, 1)(p, x), jax.hessian(model, 1)(p, x)), (None, 0)))(
        factors, X
    )
    assert_close((found["jacobian"], found["hessian"]), exact)


@settings(max_examples=15)
@given(
    x_dtype=st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
    p_dtype=st.sampled_from(["int32", "float32", "float64", "complex64", "complex128"]),
    want=st.sampled_from(["value", "jacobian", "hessian", "laplacian"]),
    strategy=st.sampled_from(SECOND_ORDER),
)
def test_any_dtypes(x_dtype, p_dtype, want, strategy):
    """The results have the dtype of the model's output."""
    assume(serves(strategy, [want]))
    model = lambda p, x: jnp.sin(p * jnp.sum(x**2))
    p, X = jnp.array([1, 2], p_dtype), Draw("dtypes")(3, 4).astype(x_dtype)
    output = jax.eval_shape(model, p, X[0]).dtype
    found = nablax.derivatives(model, want, strategy=strategy)(p, X)[want]
    assert found.dtype == output
    assert np.isfinite(np.asarray(found, complex)).all()


UNARY = {
    "sin": jnp.sin,
    "tanh": jnp.tanh,
    "square": jnp.square,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "half": lambda z: 0.5 * z,
    "negative": jnp.negative,
    "reverse": lambda z: z[::-1],
    "roll": lambda z: jnp.concatenate([z[1:], z[:1]]),
    "cumsum": lambda z: 0.3 * jnp.cumsum(z),
    "softmax": jax.nn.softmax,
    "outer": lambda z: jnp.mean(jnp.outer(z, jnp.sin(z)), 0),
    "normalise": lambda z: z / jnp.sqrt(1 + jnp.sum(z**2)),
    "relu_squared": lambda z: jnp.maximum(z, 0) ** 2,
    "jitted": jax.jit(lambda z: jnp.cos(z) * z),
    "scanned": lambda z: jax.lax.scan(lambda c, a: (jnp.tanh(c + a), c * a), jnp.ones(()), z)[1],
    "looped": lambda z: jax.lax.fori_loop(0, 2, lambda i, c: jnp.sin(c) + z, z),
    "branched": lambda z: jax.lax.cond(z[0] > 0, jnp.sin, jnp.square, z),
    "constant": lambda z: jnp.arange(1.0, z.size + 1),
    "stopped": jax.lax.stop_gradient,
    "mapped": lambda z: jax.vmap(lambda a: jnp.sum(jnp.sin(a * z)) / z.size)(z),
}
BINARY = {
    "add": jnp.add,
    "multiply": jnp.multiply,
    "subtract": jnp.subtract,
    "divide": lambda a, b: a / (2 + b**2),
    "dot": lambda a, b: jnp.tanh(a @ b) * a,
    "where": lambda a, b: jnp.where(a > b, a * b, a),
    "maximum": lambda a, b: jnp.maximum(a, b) * a,
    "arctan2": lambda a, b: jnp.arctan2(a, 2 + b**2),
}
STEPS = st.tuples(st.sampled_from([*UNARY, *BINARY, "weights"]), st.integers(0, 9), st.integers(0, 9))


@settings(max_examples=10)
@given(steps=st.lists(STEPS, min_size=3, max_size=8), strategy=st.sampled_from(SECOND_ORDER), chunk_size=CHUNKS)
def test_any_program(steps, strategy, chunk_size):
    """Random graphs: each step takes values made before it, so that values are used many times or not at all."""
    C, D = 3, 4
    draw = Draw(repr(steps))
    weights, X = draw(len(steps), C, C, scale=0.6), draw(D, C)

    def model(weights, x):
        values = [x]
        for number, (name, i, j) in enumerate(steps):
            a, b = values[i % len(values)], values[j % len(values)]
            if name == "weights":
                values.append(weights[number] @ a)
            else:
                values.append(UNARY[name](a) if name in UNARY else BINARY[name](a, b))
        return jnp.stack([jnp.sum(values[-1]), values[-1][0] * values[-2][1]])

    def both(weights, X):
        found = nablax.derivatives(model, "jacobian", "hessian", strategy=strategy, chunk_size=chunk_size)(weights, X)
        slim = nablax.derivatives(model, "hessian_diagonal", "laplacian", strategy=strategy)(weights, X)
        return found, slim

    def plain(weights, X):
        hessian = jax.vmap(jax.hessian(model, argnums=1), (None, 0))(weights, X)
        diagonal = jnp.diagonal(hessian, axis1=-2, axis2=-1)
        jacobian = jax.vmap(jax.jacrev(model, argnums=1), (None, 0))(weights, X)
        return {"jacobian": jacobian, "hessian": hessian}, {"hessian_diagonal": diagonal, "laplacian": diagonal.sum(-1)}

    found, exact = jax.jit(lambda *args: (both(*args), plain(*args)))(weights, X)
    assert_close(found, exact)


@settings(max_examples=200)
@given(samples=st.integers(1, 500), size=st.none() | st.integers(1, 600))
def test_chunks_cover_all_samples(samples, size):
    count, width = chunk_shape(samples, size)
    assert count * width >= samples
    assert (count - 1) * width < samples  # no chunk is padding alone
    assert width <= (size or samples)
    assert count * width - samples < count or samples % width == 0  # less than one padded sample a chunk
