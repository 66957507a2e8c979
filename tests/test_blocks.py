"""Blocks of inputs, log determinants and broadcast roots: found where they are, exact, and never claimed elsewhere."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzz import prelude
from fuzz.operations import OPERATIONS
from reference import same_derivatives

import nablax
from nablax._compat import CUSTOM_JVP, DOT_GENERAL
from nablax.graph import trace
from nablax.graph.dense import dense_p
from nablax.graph.determinants import _inverse, by_products, slogdet
from nablax.graph.inline import equations
from nablax.graph.nodes import Kind
from nablax.graph.products import product_p
from nablax.graph.sums import total_p
from nablax.strategies.base import Wants
from nablax.strategies.curvature import _congruence
from nablax.strategies.sweep import Request

N = 4
"""Particles, in three dimensions."""


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).normal(size=shape))


W, V, U = draw(3, 5), draw(5, 3), draw(N, N)


def meet(h):
    """All particles together."""
    h = jnp.reshape(h, (N, -1))
    return jnp.stack([jnp.sum(jnp.tanh(U @ h)), jnp.sum(h[0] * h[1] * jnp.cos(h[2]))])


def layer_norm(h):
    h = h - jnp.mean(h, -1, keepdims=True)
    return h / jnp.sqrt(jnp.mean(h * h, -1, keepdims=True) + 0.1)


def rules_of_all_kinds(r):
    h = jnp.concatenate([jnp.sin(r @ W), r, jnp.ones((N, 1))], -1)
    h = jnp.pad(h[:, ::-1], ((0, 0), (1, 1)))[:, 1:8]
    h = jnp.cumsum(h, axis=1) + jnp.max(h, axis=1, keepdims=True)
    return jnp.squeeze(jnp.expand_dims(jnp.tanh(h).T, 1), 1).T


def halves_of(h):
    first, second = jnp.split(jnp.tanh(h @ V @ W)[:, :4], 2, axis=-1)
    together = jnp.stack([first * second, second], axis=1)  # (N, 2, 2)
    one, other = jnp.unstack(together, axis=-1)
    return jnp.sin(one) * other


# Models of particles r (N, 3), whose first part treats each by itself.
APART = {
    "dense layers": lambda r: meet(jnp.tanh(jnp.sin(r @ W) @ V)),
    "distances": lambda r: meet(jnp.exp(-jnp.linalg.norm(r, axis=-1))),
    "layer norm": lambda r: meet(layer_norm(jnp.sin(r @ W))),
    "two layouts": lambda r: meet(jnp.einsum("ic,ce->ei", jnp.sin(r), W).T * jnp.sum(r**2, -1)[:, None]),
    "products of particles": lambda r: meet(jnp.einsum("ic,id->icd", jnp.sin(r), jnp.cos(r)).reshape(N, 9)),
    "the right of two factors": lambda r: meet(
        jnp.einsum("ab,cib->aci", draw(2, 3), jnp.sin(r)[None]).reshape(-1, N).T
    ),
    "many rules": lambda r: meet(rules_of_all_kinds(r)),
    "attention": lambda r: meet(jax.nn.softmax(jnp.sin(r @ W) @ (r @ W).T) @ (r @ W)),
    "determinant": lambda r: jnp.stack(jnp.linalg.slogdet(jnp.tanh(jnp.sin(r @ W) @ draw(5, N)) + 3 * jnp.eye(N))),
    "what a where discards": lambda r: meet(jnp.where(r > 0, jnp.sqrt(jnp.where(r > 0, r, 1.0)), r**2) @ W),
    "split and stacked": lambda r: meet(halves_of(jnp.sin(r @ W))),
    "complex numbers": lambda r: meet(jnp.real(jnp.exp(1j * r) @ W) * jnp.imag(jnp.tanh(jnp.exp(1j * r) @ (W + 0.5j)))),
    "entries in a row": lambda r: meet(jnp.tanh((jnp.sin(r) @ W).reshape(-1)) ** 2),
    "no meeting": lambda r: jnp.sin(r @ W),
    "a loop over particles": lambda r: jax.lax.scan(lambda c, s: (jnp.tanh(c + s), c @ c), r[0] @ W, jnp.sin(r @ W))[1],
    "vmapped": lambda r: meet(jax.vmap(lambda one: jnp.tanh(one @ W) * jnp.sum(one**2))(r)),
}


def graph_of(model, shape=(N, 3)):
    x = jax.ShapeDtypeStruct((int(np.prod(shape)),), jnp.float64)
    return trace(lambda v: [jnp.ravel(model(v.reshape(shape)))], [], x)


def reference(model, X):
    """(Jacobian, Hessian, its diagonal, its trace) of JAX alone; the last two with inputs and outputs flat."""

    @jax.jit
    def compute(X):
        H = jax.vmap(jax.hessian(model))(X)
        flat = H.reshape(len(X), -1, X[0].size, X[0].size)
        return (
            jax.vmap(jax.jacfwd(model))(X),
            H,
            jnp.diagonal(flat, axis1=2, axis2=3),
            jnp.trace(flat, axis1=2, axis2=3),
        )

    return jax.tree.map(np.asarray, compute(X))


@pytest.mark.parametrize("name", APART)
def test_particles_apart_and_together(name):
    model, X = APART[name], draw(3, N, 3, seed=1)
    graph = graph_of(model)
    assert graph.blocks.count == N
    assert graph.parts is not None
    assert all(node.kind is not Kind.OPAQUE for node in graph.program.nodes)
    expected = dict(zip(("jacobian", "hessian", "hessian_diagonal", "laplacian"), reference(model, X), strict=True))
    for strategy in ("forward", "adjoint"):
        found = nablax.derivatives(model, *expected, strategy=strategy)(X)
        for want, value in expected.items():
            np.testing.assert_allclose(np.ravel(found[want]), np.ravel(value), rtol=1e-10, atol=1e-10)


def test_particles_apart_with_one_output():
    """Contracted pair by pair, where several outputs are contracted output by output."""
    model, X = lambda r: APART["layer norm"](r)[0], draw(3, N, 3, seed=1)
    found = nablax.derivatives(model, "hessian", "hessian_diagonal", strategy="adjoint")(X)
    _, H, diagonal, _ = reference(model, X)
    np.testing.assert_allclose(found["hessian"], H, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(np.ravel(found["hessian_diagonal"]), np.ravel(diagonal), rtol=1e-10, atol=1e-10)


def test_a_part_that_needs_the_rest_is_not_cut_off():
    """Each particle is scaled by a number without derivative, which all of them decide."""

    def model(r):
        together = jnp.sum(jnp.tanh(U @ jnp.sin(r)))
        return meet(jnp.tanh(jnp.cos(r) @ W * jnp.floor(together))) + together

    graph, X = graph_of(model), draw(2, N, 3)
    assert graph.blocks is not None
    assert graph.parts is None
    found = nablax.hessian(model, strategy="adjoint")(X)
    np.testing.assert_allclose(found, jax.jit(jax.vmap(jax.hessian(model)))(X), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("strategy", ["forward", "adjoint"])
@pytest.mark.parametrize("name", [pytest.param("dense layers", marks=pytest.mark.slow), "determinant"])
def test_gradients_go_through_blocks(name, strategy):
    X = draw(2, N, 3, seed=2)
    scaled = lambda p, r: APART[name](p * r)
    loss = lambda H, L: jnp.sum(jnp.sin(H)) + jnp.sum(L**2)

    def plain(p):
        H = jax.vmap(jax.hessian(scaled, 1), (None, 0))(p, X)
        return loss(H, jnp.trace(H.reshape(2, -1, 12, 12), axis1=2, axis2=3))

    def ours(p):
        found = nablax.derivatives(scaled, "hessian", "laplacian", strategy=strategy)(p, X)
        return loss(found["hessian"], found["laplacian"])

    np.testing.assert_allclose(jax.jit(jax.grad(ours))(1.1), jax.jit(jax.grad(plain))(1.1), rtol=1e-9)


WEIGHTS = {"1": 2.0, "C": np.arange(12.0) - 3, "C, C": np.arange(144.0).reshape(12, 12)}


@pytest.mark.parametrize("shape", WEIGHTS)
@pytest.mark.parametrize("name", ["dense layers", "determinant", "layer norm"])
def test_weighted_traces(name, shape):
    model, X, weights = APART[name], draw(3, N, 3), WEIGHTS[shape]
    jacobian, H, *_ = reference(model, X)
    H = H.reshape(3, -1, 12, 12)
    full = weights if np.ndim(weights) == 2 else np.diag(np.broadcast_to(weights, 12))
    wants = ("laplacian", "jacobian") if name != "layer norm" else ("laplacian", "hessian_diagonal")
    wanted = jacobian if "jacobian" in wants else np.diagonal(H, axis1=2, axis2=3).reshape(jacobian.shape)
    for strategy in ("forward", "adjoint"):
        found = nablax.derivatives(model, *wants, weights=jnp.asarray(weights), strategy=strategy)(X)
        np.testing.assert_allclose(found["laplacian"], np.einsum("dace,ce->da", H, full), rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(found[wants[1]], wanted, rtol=1e-10, atol=1e-9)


def test_masses_are_weighted_where_directions_start():
    """The Laplacian of particles with masses costs six directions instead of twelve, and its gradient is right."""
    graph = graph_of(APART["dense layers"])
    requested = lambda weights: Request(Wants(frozenset({"laplacian"})), 12, weights)
    assert requested(jnp.ones(12)).blocks(graph) is graph.blocks
    assert requested(jnp.ones((12, 12))).blocks(graph) is None
    model, X = APART["dense layers"], draw(2, N, 3)
    H = lambda: jax.vmap(jax.hessian(model))(X).reshape(2, -1, 12, 12)
    loss = lambda w: jnp.sum(nablax.laplacian(model, weights=w, strategy="forward")(X) ** 2)
    ours = jax.jit(jax.grad(loss))(jnp.arange(12.0))
    plain = jax.jit(jax.grad(lambda w: jnp.sum(jnp.einsum("dacc,c->da", H(), w) ** 2)))(jnp.arange(12.0))
    np.testing.assert_allclose(ours, plain, rtol=1e-9)


def test_a_vector_that_is_cut_into_particles():
    """Features of single numbers are blocks of one, and C itself may be the only reshape."""
    frequencies = draw(1, 6)
    embedded = lambda x: jnp.sum(jnp.tanh(jnp.sin(x[:, None] * frequencies).reshape(-1) @ draw(30, 4)))
    assert (graph_of(embedded, (5,)).blocks.count, graph_of(embedded, (5,)).blocks.width) == (5, 1)
    X = draw(3, 5)
    found = nablax.hessian(embedded, strategy="forward")(X)
    np.testing.assert_allclose(found, jax.jit(jax.vmap(jax.hessian(embedded)))(X), rtol=1e-10, atol=1e-12)
    assert graph_of(lambda x: jnp.sum(jnp.tanh(x @ draw(5, 8))), (5,)).blocks is None


# Operations that make particles meet, and some that only change their order.
TOGETHER = {
    "reversed": lambda h: h[::-1],
    "rolled": lambda h: jnp.roll(h, 1, axis=0),
    "rolled by entries": lambda h: jnp.roll(h.reshape(-1), 1).reshape(h.shape),
    "cumulated": lambda h: jnp.cumsum(h, axis=0),
    "sorted": lambda h: jnp.sort(h, axis=0),
    "summed": lambda h: h + jnp.sum(h, axis=0, keepdims=True),
    "a part": lambda h: jnp.tile(h[:2], (2, 1)),
    "indexed": lambda h: h[jnp.array([3, 0, 1, 2])],
    "transposed": lambda h: h.T.reshape(h.shape) @ draw(3, 3),
    "multiplied": lambda h: U @ h,
    "multiplied from behind": lambda h: (h.T @ U).T,
    "with others": lambda h: jnp.einsum("ic,jc->ij", h, h) @ h,
    "padded": lambda h: jnp.pad(h, ((1, 0), (0, 0)))[:-1],
    "joined": lambda h: jnp.concatenate([h, h])[2:6],
    "convolved": lambda h: jax.vmap(lambda c: jnp.convolve(c, jnp.ones(3), "same"), 1, 1)(h),
    "in a loop": lambda h: jax.lax.scan(lambda c, s: (c + s, c), h[0], h)[1],
    "outer products": lambda h: (h[:, None] * h[None]).sum(1),
}


def held_and_coupled(graph, v):
    """The largest derivative of a value in blocks by another block than its own."""
    blocks = graph.blocks
    if blocks is None:
        return 0.0
    variables = list(blocks.inner)

    def values(v):
        known = dict(zip(graph.flat.inputs, [v], strict=True))
        read = lambda atom: atom.value if hasattr(atom, "value") else known[atom]
        for eqn in graph.flat.equations:
            known.update(zip(eqn.outputs, eqn(*map(read, eqn.inputs)), strict=True))
        return [jnp.ravel(known[variable]) for variable in variables]

    worst = 0.0
    for variable, J in zip(variables, jax.jit(jax.jacfwd(values))(v), strict=True):
        entry = np.arange(J.shape[0]) // blocks.inner[variable] % blocks.count
        other = entry[:, None] != np.arange(J.shape[1])[None] // blocks.width
        worst = max(worst, float(np.max(np.abs(J), where=other, initial=0.0)))
    return worst


@pytest.mark.parametrize("name", TOGETHER)
def test_what_meets_is_not_held_apart(name):
    model = lambda r: meet(jnp.tanh(TOGETHER[name](jnp.sin(r))))
    graph, X = graph_of(model), draw(2, N, 3)
    assert held_and_coupled(graph, jnp.ravel(X[0])) == 0.0
    curved = [node for node in graph.program.nodes if node.kind is not Kind.LINEAR and graph.blocks.holds(node)]
    assert len(curved) == 1, "only the sine is before the meeting"
    found = nablax.hessian(model, strategy="forward")(X)
    np.testing.assert_allclose(found, jax.jit(jax.vmap(jax.hessian(model)))(X), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.mode == "both"])
def test_no_operation_is_held_that_couples(name):
    """Every operation of the fuzzer on particles: whatever is said to fall into blocks has a Jacobian that does."""
    text = OPERATIONS[name].template.format(a="u", b="w", n=4, h=3)
    operation = eval(f"lambda u, w, W, b, s, k: {text}", {**vars(prelude), "jnp": jnp, "jax": jax, "np": np})
    result = lambda r: operation(jnp.sin(r), jnp.cos(r), draw(3, 3), draw(3), 0.3, 1)
    model = lambda r: jnp.sum(jnp.real(jnp.sin(result(r))))
    assert held_and_coupled(graph_of(model), jnp.ravel(draw(N, 3))) == 0.0


# Contractions of s (N, 3) that keep particles apart, with their axis free or batched in either factor.
PRODUCTS = {
    "free on the right": lambda s: jnp.einsum("ab,cib->iac", draw(2, 3), s[None]),
    "free on the left": lambda s: jnp.einsum("cib,ab->ica", s[None], draw(2, 3)),
    "batched on the left": lambda s: jnp.einsum("icb,iba->ica", s[:, None], draw(N, 3, 2)),
    "batched on the right": lambda s: jnp.einsum("iba,ibc->iac", draw(N, 3, 2), s[..., None]),
    "batched in both": lambda s: jnp.einsum("ib,ic->ibc", s, jnp.cos(s)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_that_keep_particles_apart(name):
    model, X = lambda r: meet(PRODUCTS[name](jnp.sin(r))), draw(2, N, 3)
    graph = graph_of(model)
    products = [node for node in graph.program.nodes if node.equations[0].primitive in (dense_p, DOT_GENERAL)]
    assert graph.blocks.holds(products[0])
    found = nablax.laplacian(model, strategy="forward")(X)
    np.testing.assert_allclose(np.ravel(found), reference(model, X)[3].ravel(), rtol=1e-10, atol=1e-10)


def test_explain_tells_of_blocks():
    told = lambda model: nablax.explain(model, "laplacian")(draw(2, N, 3))
    assert told(APART["dense layers"]).blocks == N
    assert "4 blocks of 3 inputs, apart at first" in " ".join(str(told(APART["dense layers"])).split())
    assert told(meet).blocks == 1
    assert "apart" not in str(told(meet))


@pytest.mark.parametrize("strategy", ["forward", "adjoint"])
def test_blocks_save_the_work_that_they_promise(strategy):
    """Three directions instead of twelve, in all but the last layer."""
    H = draw(3, 64), draw(64, 64)
    model = lambda r: jnp.sum(jnp.tanh(U @ jnp.tanh(jnp.tanh(r @ H[0]) @ H[1])))
    X = draw(16, N, 3)
    flops = lambda f: jax.jit(f).lower(X).compile().cost_analysis()["flops"]
    apart = flops(nablax.laplacian(model, strategy=strategy))
    together = flops(nablax.laplacian(lambda r: model(r[jnp.arange(N)]), strategy=strategy))
    assert together > 2 * apart


def test_log_determinants_are_derived_by_products():
    A = draw(5, 3, 3) + 2 * jnp.eye(3)[None]
    np.testing.assert_array_equal(slogdet(A)[1], jnp.linalg.slogdet(A)[1])
    same_derivatives(lambda A: slogdet(A)[1], lambda A: jnp.linalg.slogdet(A)[1], A)
    same_derivatives(_inverse, jnp.linalg.inv, A[:2])
    single = A[0].astype(jnp.float32)
    assert {a.dtype for a in jax.jvp(slogdet, (single,), (single,))[1]} == {jnp.dtype("float32")}


def test_a_singular_matrix_has_no_derivative():
    log = lambda A: jnp.linalg.slogdet(A)[1]
    A = jnp.stack([jnp.ones((2, 2)), jnp.zeros((2, 2)), 2 * jnp.eye(2)])
    for strategy in ("forward", "reverse"):
        found = nablax.jacobian(log, strategy=strategy)(A)
        assert jnp.isnan(found[:2]).all()
        np.testing.assert_allclose(found[2], jnp.eye(2) / 2)


@jax.custom_jvp
def _fails(A):
    return jnp.sum(A), jnp.sum(A)


@_fails.defjvp
def _fails_jvp(A, dA):
    raise NotImplementedError


def test_rules_that_are_not_needed_are_not_called():
    M = jnp.ones((3, 3))
    model = lambda r: jnp.sum(jnp.sin(r * _fails(M)[0]))
    found = nablax.hessian(model, strategy="forward")(draw(2, N, 3))
    np.testing.assert_allclose(found, jax.jit(jax.vmap(jax.hessian(model)))(draw(2, N, 3)), rtol=1e-10)


EMPTY = {
    "no other particles": lambda r: jnp.sum(r[:, None, :] * r[:0][None]),
    "a broadcast to none": lambda r: jnp.sum(jnp.broadcast_to(r[:, None], (4, 0, 3)) ** 2),
    "a number to none": lambda r: jnp.sum(jnp.broadcast_to(jnp.sum(r), (0,)) ** 2),
    "between": lambda r: jnp.sum(r[:, None, :] * jnp.zeros((1, 0, 1)) * r[:, None, :]),
}


@pytest.mark.parametrize("strategy", ["forward", "adjoint"])
@pytest.mark.parametrize("name", EMPTY)
def test_values_without_entries(name, strategy):
    model = lambda r: jnp.sum(jnp.sin(r) ** 2) + EMPTY[name](r)
    found = nablax.hessian(model, strategy=strategy)(draw(2, N, 3))
    np.testing.assert_allclose(found, jax.jit(jax.vmap(jax.hessian(model)))(draw(2, N, 3)), rtol=1e-10, atol=1e-14)


@jax.custom_jvp
def _slogdet_lu(A):
    """Called like what JAX calls its own, and with the same value."""
    return tuple(jnp.linalg.slogdet(A))


_slogdet_lu.defjvp(lambda A, dA: (_slogdet_lu(*A), (jnp.zeros(()), 7 * jnp.sum(dA[0]))))


@pytest.mark.parametrize("layout", ["one", "many", "vmapped", "complex", "false friend"])
def test_which_determinants_are_recognised(layout):
    matrix = lambda r: jnp.tanh(r @ draw(3, N)) + 3 * jnp.eye(N)
    many = lambda r: jnp.stack([matrix(r), matrix(2 * r)])
    model = {
        "one": lambda r: jnp.linalg.slogdet(matrix(r))[1],
        "many": lambda r: jnp.linalg.slogdet(many(r))[1],
        "vmapped": lambda r: jax.vmap(jnp.linalg.slogdet)(many(r))[1],
        "complex": lambda r: jnp.linalg.slogdet(matrix(r) * (1 + 1j * jnp.sin(r[0, 0])))[1],
        "false friend": lambda r: _slogdet_lu(matrix(r))[1],
    }[layout]
    X = draw(2, N, 3, seed=3)
    rules = [eqn for eqn in equations(jax.make_jaxpr(model)(X[0]).jaxpr) if eqn.primitive is CUSTOM_JVP]
    assert (by_products(rules[0]) is not None) == (layout in ("one", "many", "vmapped"))
    found = nablax.hessian(model, strategy="forward" if layout == "one" else "adjoint")(X)
    np.testing.assert_allclose(found, jax.jit(jax.vmap(jax.hessian(model)))(X), rtol=1e-9, atol=1e-10)


def _matrices(r):
    return jnp.stack([jnp.tanh(k * r @ draw(3, N)) + 3 * jnp.eye(N) for k in (1, 2, 3)])


LOG_DETERMINANTS = {
    "one": lambda r: jnp.stack(jnp.linalg.slogdet(_matrices(r)[0])),
    "many": lambda r: jnp.sin(jnp.linalg.slogdet(_matrices(r))[1]),
    "in a loop": lambda r: jax.lax.scan(lambda c, m: (c + jnp.linalg.slogdet(m * jnp.cos(c))[1], c), 0.1, _matrices(r)),
}


@pytest.mark.parametrize("strategy", ["forward", "adjoint"])
@pytest.mark.parametrize("layout", LOG_DETERMINANTS)
def test_second_derivatives_of_log_determinants(layout, strategy):
    model, X = LOG_DETERMINANTS[layout], draw(2, N, 3, seed=3)
    flat = lambda r: jnp.concatenate([jnp.ravel(y) for y in jax.tree.leaves(model(r))])
    weights = draw(12, 12)
    wants = ("hessian", "hessian_diagonal", "laplacian")
    found = nablax.derivatives(flat, *wants, weights=weights, strategy=strategy)(X)
    H = jax.jit(jax.vmap(jax.hessian(flat)))(X).reshape(2, -1, 12, 12)
    close = lambda a, b: np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-10, atol=1e-11)
    close(found["hessian"], H)
    close(found["hessian_diagonal"], jnp.diagonal(H, axis1=2, axis2=3))
    close(found["laplacian"], jnp.einsum("dace,ce->da", H, weights))
    kinds = [node.kind for node in graph_of(flat).program.nodes]
    assert (Kind.DETERMINANT in kinds) == (layout != "in a loop")
    assert Kind.OPAQUE not in kinds


def test_a_log_determinant_takes_one_product_for_each_direction():
    """And not one for each pair: 12 directions have 78."""
    model = lambda r: jnp.linalg.slogdet(_matrices(r)[0])[1]
    for want in (nablax.hessian, nablax.hessian_diagonal):
        jaxpr = jax.make_jaxpr(want(model, strategy="forward", chunk_size=None))(draw(2, N, 3)).jaxpr
        products = [eqn.outvars[0].aval.size for eqn in equations(jaxpr) if eqn.primitive is product_p]
        assert max(products) == 2 * 12 * N * N


# Products and quotients of arrays that repeat themselves along different axes.
BROADCAST = {
    "row and column": lambda a, b: a[:, None] * b[None],
    "quotient": lambda a, b: a[:, None] / (2 + jnp.sin(b))[None],
    "matrix by row": lambda a, b: jnp.outer(a, b) * jnp.exp(a)[:, None],
    "row by matrix": lambda a, b: jnp.exp(a)[:, None] / (2 + jnp.outer(jnp.sin(a), b)),
    "both repeat": lambda a, b: jnp.broadcast_to(a[:, None], (4, 3)) * jnp.broadcast_to(jnp.sin(a)[:, None], (4, 3)),
    "number": lambda a, b: jnp.sum(a) * b / (3 + jnp.sum(jnp.sin(b))),
    "three axes": lambda a, b: a[:, None, None] * jnp.outer(b, jnp.sin(b))[None] + jnp.outer(a, b)[:, None] ** 3,
    "in a loop": lambda a, b: jax.lax.scan(lambda c, r: (c, c[:, None] * r / (2 + jnp.sin(c[None]))), a, b)[1],
    "in a where": lambda a, b: jnp.where(b > 0, a[:, None] / jnp.where(b > 0, b, 1.0)[None], b**2),
}


@pytest.mark.parametrize("outputs", [1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", BROADCAST)
def test_roots_that_repeat_themselves(name, outputs):
    def model(M, x):
        y = jnp.ravel(BROADCAST[name](jnp.tanh(x[:4]), jnp.sin(x[4:])))
        return jnp.tanh(y @ M[: y.size, :outputs])

    M, X = draw(60, 5), draw(3, 7)
    plain = jax.jit(jax.vmap(jax.hessian(model, 1), (None, 0)))
    H = plain(M, X)
    found = nablax.derivatives(model, "hessian", "hessian_diagonal", "laplacian", strategy="adjoint")(M, X)
    np.testing.assert_allclose(found["hessian"], H, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(found["hessian_diagonal"], np.diagonal(H, axis1=2, axis2=3), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(found["laplacian"], np.trace(H, axis1=2, axis2=3), rtol=1e-10, atol=1e-11)
    if outputs == 1 and name not in ("quotient", "in a loop"):
        return
    loss = lambda hessian: lambda M: jnp.sum(jnp.sin(hessian(M, X)))
    ours = nablax.hessian(model, strategy="adjoint")
    by_ours, by_plain = (jax.jit(jax.grad(loss(f)))(M) for f in (ours, plain))
    np.testing.assert_allclose(by_ours, by_plain, rtol=1e-9, atol=1e-10)


def test_a_root_that_repeats_itself_is_contracted_once():
    """A quotient by a norm has three pairs of roots; the same norm times ones does not show that it repeats itself."""
    M, X = draw(12, 64), draw(4, 12)
    quotient = lambda spread: lambda x: jnp.sum(jnp.tanh((x @ M) / spread(2 + jnp.sum(jnp.sin(x)))))
    flops = lambda f: jax.jit(nablax.hessian(f, strategy="adjoint")).lower(X).compile().cost_analysis()["flops"]
    shown = flops(quotient(lambda n: jnp.broadcast_to(n, (64,))))
    hidden = flops(quotient(lambda n: n * (1 + jnp.arange(64.0) / 64)))
    assert hidden > 1.5 * shown


@pytest.mark.parametrize("want", ["hessian", "hessian_diagonal", "laplacian"])
def test_curvature_is_contracted_step_by_step(want):
    """One contraction over steps and entries, 5 * 7 here, would move all tangents into another order first."""
    V, X = draw(7, 7), draw(3, 5)
    model = lambda x: jax.lax.scan(lambda h, r: (jnp.tanh(V @ h + r), None), jnp.ones(7), x)[0][:2]
    derive = getattr(nablax, want)(model, strategy="adjoint")
    found = list(equations(jax.make_jaxpr(derive)(X).jaxpr))
    contracted = {
        math.prod(eqn.invars[0].aval.shape[axis] for axis in eqn.params["dimension_numbers"][0][0])
        for eqn in found
        if eqn.primitive is DOT_GENERAL
    }
    summed = lambda eqn: math.prod(eqn.invars[0].aval.shape[axis] for axis in eqn.params["axes"])
    contracted |= {summed(eqn) for eqn in found if eqn.primitive is total_p}
    assert 7 in contracted
    assert 35 not in contracted


def test_a_congruence_goes_back_as_one_product():
    """Of its two equal factors, JAX would treat each by itself: two products back."""
    scaled, both = draw(2, 7), draw(5, 7)
    plain = lambda scaled, both: jnp.einsum("ah,ch,eh->ace", scaled, both, both)
    np.testing.assert_allclose(_congruence(scaled, both), plain(scaled, both), rtol=1e-12)
    same_derivatives(_congruence, plain, scaled[:, :3], both[:3, :3])
    loss = lambda f: jax.grad(lambda s, b: jnp.sum(jnp.sin(f(s, b)) * draw(2, 5, 5)), (0, 1))
    for ours, theirs in zip(loss(_congruence)(scaled, both), loss(plain)(scaled, both), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    eqns = equations(jax.make_jaxpr(loss(_congruence))(scaled, both).jaxpr)
    assert sum(eqn.primitive is DOT_GENERAL for eqn in eqns) == 2
