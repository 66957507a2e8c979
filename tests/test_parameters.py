"""The derivative by the parameters of every scenario, against dense linear algebra on one vmapped jacrev."""

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest
import reference
from jax.flatten_util import ravel_pytree
from parameter_scenarios import SCENARIOS, D, ParameterScenario, asked, cut, dense_reference, from_dense, layers, mlp
from scenarios import Draw

import nablax
from nablax import errors

NAMED = {scenario.name: scenario for scenario in SCENARIOS}
PERCEPTRON = NAMED["perceptron"]
# By turns: what a loss goes through, and what else a scenario is asked for.
TURNS = {
    "gram": ("tree", "norms", "diagonal of samples", "adjoint", "product"),
    "norms": ("tree", "cross", "diagonal of samples", "adjoint"),
    "diagonal": ("tree", "cross", "norms", "adjoint"),
    "dense": ("gram", "norms", "diagonal of samples", "fisher of rows", "product"),
}
ALL = ("dense", "tree", "gram", "cross", "norms", "product", "adjoint", "fisher", "diagonal")
ALL += ("fisher of samples", "fisher of rows", "diagonal of samples", "diagonal of rows")
# The last chunk of 2 is padded.
CHUNKS = (None, 2, None)
# Those that are asked for all: with scalar outputs, outputs of rank 2, two uses, and without any structure.
SOME = [NAMED[name] for name in ("scalar_output", "matrix_output", "layer_twice", "raw_parameters")]


# Gradients of these only say again what others have said: they differ in how arguments are passed, or take long.
LATER = ("tree_output", "nested_tree", "equinox_module", "parameters_second", "shared_rest", "jitted", "layer_twice")
LATER += ("rematerialised", "shared_bias", "cut_in_pieces", "flat_parameters", "nothing_used", "positive_weights")
LATER += ("not_of_the_sample", "inner_vmap", "hessian_residual", "residual_of_jax", "nested_scan", "scanned_layers")
LATER += ("attention_reshaped", "convolution_of_sequences", "embedding_modes", "fori_loop", "initial_state", "experts")
ALSO_LATER = [
    pytest.param(scenario, marks=pytest.mark.slow if scenario.name in LATER else (), id=scenario.name)
    for scenario in SCENARIOS
]


def operator(scenario: ParameterScenario, params=None, X=None, **options):
    params = scenario.params if params is None else params
    X = scenario.X if X is None else X
    made = nablax.parameter_jacobian(scenario.model, wrt=scenario.wrt, in_axes=scenario.in_axes, **options)
    return made(*scenario.args(params, X))


def output_shape(scenario: ParameterScenario) -> tuple[int, ...]:
    """Of one output; a tree of several counts as a vector."""
    y = jax.eval_shape(jax.vmap(scenario.model, scenario.axes), *scenario.args(arrays(scenario.params), scenario.X))
    leaves = jax.tree.leaves(y)
    return leaves[0].shape[1:] if len(leaves) == 1 else (sum(leaf.size for leaf in leaves) // D,)


def arrays(params):
    return jax.tree.map(jnp.asarray, params)


@functools.cache
def given(scenario: ParameterScenario) -> dict:
    """What products and weighted sums are asked for with."""
    draw = Draw(f"given to {scenario.name}")
    params, y = arrays(scenario.params), output_shape(scenario)
    return {
        "v": jax.tree.map(lambda leaf: draw(*leaf.shape).astype(leaf.dtype), params),
        "w": draw(D, *y),
        "of_samples": draw.positive(D),
        "of_rows": draw(D, *y),
    }


def through(scenario: ParameterScenario) -> str:
    """What a loss of this scenario goes through."""
    return list(TURNS)[SCENARIOS.index(scenario) % len(TURNS)]


def numbers(scenario: ParameterScenario) -> tuple[list, Callable]:
    """All that a loss depends on, parameters and samples; and how to put them together again, integers between them."""
    leaves, treedef = jax.tree.flatten((arrays(scenario.params), scenario.X))
    varies = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def join(varied):
        rest = iter(varied)
        return treedef.unflatten([next(rest) if v else leaf for v, leaf in zip(varies, leaves, strict=True)])

    return [leaf for v, leaf in zip(varies, leaves, strict=True) if v], join


def cotangents(scenario: ParameterScenario) -> dict:
    """Of what a loss goes through."""
    B = sum(jnp.size(leaf) for leaf in jax.tree.leaves(scenario.params))
    J, draw = jax.ShapeDtypeStruct((D, *output_shape(scenario), B), float), Draw(f"cotangents of {scenario.name}")
    shapes = jax.eval_shape(lambda J: from_dense(J, (through(scenario),), cut(scenario.params), {}), J)
    return jax.tree.map(lambda leaf: draw(*leaf.shape), shapes)


@functools.cache
def by_jax(scenario: ParameterScenario, later: bool = False) -> tuple[np.ndarray, np.ndarray, list | None]:
    """The arrays (D, *y.shape, B) of the batch and of the other batch, and the gradient of the loss.

    All by one compiled function, without the gradient where it is tested `later` only.
    """
    (varied, join), y = numbers(scenario), output_shape(scenario)
    weights, name = cotangents(scenario), through(scenario)

    def loss(varied):
        params, X = join(varied)
        both = lambda *leaves: jnp.concatenate(leaves, axis=scenario.samples_axis)
        J = dense_reference(scenario, params, jax.tree.map(both, X, scenario.other_batch()))
        J = J.reshape(len(J), *y, -1)
        return reference.loss(from_dense(J[:D], (name,), cut(params), {}), weights), J

    differentiated = later or scenario.name not in LATER
    gradient, J = jax.jit(jax.grad(loss, has_aux=True) if differentiated else lambda v: (None, loss(v)[1]))(varied)
    return np.asarray(J[:D]), np.asarray(J[D:]), gradient


def as_vectors(given: dict) -> dict:
    """Its direction as one vector, all of it as NumPy arrays."""
    flat = given | {"v": ravel_pytree(given["v"])[0]}
    return {name: np.asarray(array) for name, array in flat.items()}


def expected(scenario: ParameterScenario, names: tuple[str, ...]) -> dict:
    J, other, _ = by_jax(scenario)
    return from_dense(J, names, cut(scenario.params), as_vectors(given(scenario)), other)


def close(found, wanted, tolerance=1e-10, what=""):
    """Each leaf to `tolerance` of its largest entry; in the dtype wanted where numbers are meant to be rounded."""
    if tolerance > 1e-8:
        found, wanted = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree) for tree in (found, wanted))
    reference.assert_close(found, wanted, tolerance, what)


def handling(O) -> dict[str, str]:
    """How each parameter is handled, from the table that the operator prints."""
    lines = repr(O).splitlines()[1:]
    return {name: how for name, _, how in (re.split(r"\s{2,}", line.strip(), maxsplit=2) for line in lines)}


# ------------------------------------------------------------------------------------------------------- every scenario


@pytest.mark.parametrize("scenario", ALSO_LATER)
def test_every_quantity(scenario):
    every_quantity(scenario, ALL if scenario in SOME else TURNS[through(scenario)])


@pytest.mark.parametrize("name", [*LATER[::4], *(pytest.param(n, marks=pytest.mark.slow) for n in LATER[2::4])])
def test_two_quantities(name):
    every_quantity(NAMED[name], TURNS[through(NAMED[name])][:2])


def every_quantity(scenario: ParameterScenario, names: tuple[str, ...]) -> None:
    """By one compiled function, in chunks and whole by turns."""
    chunk_size = CHUNKS[SCENARIOS.index(scenario) % 3]

    @jax.jit
    def everything(params, X, other, given):
        O, partner = (operator(scenario, params, batch, chunk_size=chunk_size) for batch in (X, other))
        return asked(O, names, given, partner)

    found = everything(scenario.params, scenario.X, scenario.other_batch(), given(scenario))
    close(found, expected(scenario, names), scenario.tolerance)


@pytest.mark.parametrize(
    "scenario",
    [
        *ALSO_LATER[::4],
        *(pytest.param(s, marks=pytest.mark.slow, id=repr(s)) for n, s in enumerate(SCENARIOS) if n % 4),
    ],
)
def test_gradient_of_a_loss_by_parameters_and_samples(scenario):
    """Of the value that it goes through too. Where one test is in chunks, the other one is not."""
    chunk_size, name = CHUNKS[(SCENARIOS.index(scenario) + 1) % 3], through(scenario)
    (varied, join), weights = numbers(scenario), cotangents(scenario)

    def loss(varied):
        values = asked(operator(scenario, *join(varied), chunk_size=chunk_size), (name,), {})
        return reference.loss(values, weights), values

    gradient, values = jax.jit(jax.grad(loss, has_aux=True))(varied)
    close(values, expected(scenario, (name,)), scenario.tolerance)
    wanted = by_jax(scenario, scenario.name in LATER)[2]
    close(gradient, wanted, max(1e-9, 10 * scenario.tolerance))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=repr)
def test_layout_and_handling(scenario):
    O = operator(scenario)
    B, y = sum(jnp.size(leaf) for leaf in jax.tree.leaves(scenario.params)), output_shape(scenario)
    assert O.shape == (D, *y, B)
    itemsize = jnp.result_type(float).itemsize
    assert O.nbytes_dense == D * int(np.prod(y)) * B * itemsize
    found = handling(O)
    paths = [jax.tree_util.keystr(path) or "params" for path, _ in jax.tree_util.tree_leaves_with_path(scenario.params)]
    assert list(found) == paths
    for path, how in (scenario.factored or {}).items():
        assert not found[path].startswith("whole"), f"{path} is {found[path]}"
        assert how in found[path], f"{path} is {found[path]}"
    for path in scenario.whole:
        assert re.match(r"whole\W+\w+", found[path]), f"{path} is {found[path]}, without a reason"
    if scenario.name in ("perceptron", "convolution", "attention_einsum"):
        for leaf in jax.tree.leaves(scenario.params):
            assert str(jnp.shape(leaf)) in repr(O)


def test_scenarios_are_many_and_never_square():
    assert len(SCENARIOS) >= 50
    assert len(NAMED) == len(SCENARIOS)
    assert set(LATER) < set(NAMED)
    for scenario in SCENARIOS:
        assert all(leaf.shape[scenario.samples_axis] == D for leaf in jax.tree.leaves(scenario.X)), scenario
        assert D not in output_shape(scenario), scenario
        assert D not in [n for leaf in jax.tree.leaves(scenario.params) for n in jnp.shape(leaf)], scenario


# ---------------------------------------------------------------------------------------- operators made from operators


def transformed(J, weights):
    """The arrays of the operators that `derived` makes."""
    of_mean, of_samples, of_rows = (weights[name] for name in ("of_mean", "of_samples", "of_rows"))
    by_sample, by_row = of_samples.reshape(D, *[1] * (J.ndim - 1)), of_rows[..., None]
    plain = J - J.mean(0)[None]
    centred = J - np.average(J, axis=0, weights=of_mean)[None]
    return {
        "centred": plain,
        "centred with weights": centred,
        "weighted by samples": J * by_sample,
        "weighted by rows": J * by_row,
        "weighted twice": J * by_sample * by_row,
        "centred, then weighted": centred * by_row,
        "rows": J[1:4],
        "rows, weighted": J[::2] * by_sample[::2],
        "weighted, rows": (J * by_row)[-2:],
        "rows, centred": J[:3] - J[:3].mean(0)[None],
    }


def derived(O, weights):
    of_mean, of_samples, of_rows = (weights[name] for name in ("of_mean", "of_samples", "of_rows"))
    return {
        "centred": O.centred(),
        "centred with weights": O.centred(weights=of_mean),
        "weighted by samples": O.weighted(of_samples),
        "weighted by rows": O.weighted(of_rows),
        "weighted twice": O.weighted(of_samples).weighted(of_rows),
        "centred, then weighted": O.centred(of_mean).weighted(of_rows),
        "rows": O.rows(slice(1, 4)),
        "rows, weighted": O.rows(slice(None, None, 2)).weighted(of_samples[::2]),
        "weighted, rows": O.weighted(of_rows).rows(slice(-2, None)),
        "rows, centred": O.rows(slice(0, 3)).centred(),
    }


@pytest.mark.parametrize("scenario", SOME, ids=repr)
def test_centred_weighted_and_rows(scenario):
    J, other, _ = by_jax(scenario)
    draw = Draw(f"weights of {scenario.name}")
    # Not normalised: a weighted mean is divided by the sum of its weights.
    weights = {"of_mean": draw.positive(D), "of_samples": draw(D), "of_rows": draw(*J.shape[:-1])}
    chunk_size = (2, None)[SOME.index(scenario) % 2]
    everyone = ("tree", "cross", "norms", "adjoint", "product", "fisher of rows", "diagonal of samples")
    # Two for each operator in each scenario, so that all come up for every operator.
    names = lambda number: [everyone[(number + 2 * SOME.index(scenario) + i) % len(everyone)] for i in range(2)]

    drawn = given(scenario)

    def inputs(samples):
        """For so many samples."""
        return {name: each if name == "v" else each[:samples] for name, each in drawn.items()}

    @jax.jit
    def everything(params, X, other, weights):
        O, partner = (operator(scenario, params, batch, chunk_size=chunk_size) for batch in (X, other))
        return {
            # The other operator of the kernel may be centred too.
            name: asked(made, names(i), inputs(made.shape[0]), partner if "rows" in name else partner.centred())
            for i, (name, made) in enumerate(derived(O, weights).items())
        }

    found = everything(scenario.params, scenario.X, scenario.other_batch(), weights)
    for i, (name, array) in enumerate(transformed(J, jax.tree.map(np.asarray, weights)).items()):
        partner = other if "rows" in name else other - other.mean(0)[None]
        wanted = from_dense(array, names(i), cut(scenario.params), as_vectors(inputs(len(array))), partner)
        close(found[name], wanted, 1e-10, f"{name}: ")


def test_gradient_through_centred_and_weighted():
    scenario = NAMED["matrix_output"]
    weights = Draw("weights")(D, 2, 4)

    def found(params):
        O = operator(scenario, params, chunk_size=2).centred().weighted(weights)
        return jnp.sum(jnp.sin(O.gram())) + jnp.sum(O.squared_norms() ** 2)

    def wanted(params):
        J = dense_reference(scenario, params, scenario.X)
        J = ((J - J.mean(0)[None]) * weights.reshape(D, -1, 1)).reshape(D * 8, -1)
        return jnp.sum(jnp.sin(J @ J.T)) + jnp.sum(jnp.sum(J**2, -1) ** 2)

    close(jax.jit(jax.grad(found))(scenario.params), jax.jit(jax.grad(wanted))(scenario.params), 1e-9)


@pytest.mark.parametrize("scenario", SOME[:3], ids=repr)
def test_as_lineax(scenario):
    J, _, _ = by_jax(scenario)
    J = J.reshape(-1, J.shape[-1])
    flat, O = as_vectors(given(scenario)), operator(scenario)
    for of, matrix in {"jacobian": J, "fisher": J.T @ J, "gram": J @ J.T}.items():
        found = O.as_lineax(of=of)
        assert isinstance(found, lineax.AbstractLinearOperator)
        assert lineax.is_positive_semidefinite(found) == (of != "jacobian")
        assert (found.out_size(), found.in_size()) == matrix.shape
        name = "w" if of == "gram" else "v"
        product = ravel_pytree(found.mv(given(scenario)[name]))[0]
        close(product, matrix @ flat[name].reshape(-1), 1e-10, of)
    assert lineax.is_positive_semidefinite(O.as_lineax("gram"))
    assert O.as_lineax().out_size() == J.shape[0], "the Jacobian is the default"


def test_lineax_makes_matrices_of_it_and_solves_with_it():
    O, (J, _, _) = operator(PERCEPTRON), by_jax(PERCEPTRON)
    J = J.reshape(-1, J.shape[-1])
    close(jax.jit(lambda O: O.as_lineax("gram").as_matrix())(O), J @ J.T)
    close(jax.jit(lambda O: O.as_lineax("jacobian").as_matrix())(O), J)
    w = given(PERCEPTRON)["w"]
    # D A = 10 rows of B = 60: invertible up to the redundant directions of the biases
    damped = O.as_lineax("gram") + 0.1 * lineax.IdentityLinearOperator(jax.eval_shape(lambda: w))
    damped = lineax.TaggedLinearOperator(damped, lineax.positive_semidefinite_tag)
    solution = lineax.linear_solve(damped, w, lineax.CG(rtol=1e-12, atol=1e-12)).value
    exact = np.linalg.solve(J @ J.T + 0.1 * np.eye(len(J)), np.asarray(w).reshape(-1)).reshape(w.shape)
    close(solution, exact, 1e-8)


# ------------------------------------------------------------------------------------------------ transformed and eager


def test_eager_and_whole_and_in_chunks():
    """Without jit, every chunk size: one sample, a divisor or none of the samples, more than there are."""
    wanted = expected(PERCEPTRON, ALL)
    for chunk_size in (1, 3, 7):
        found = operator(PERCEPTRON, chunk_size=chunk_size).gram()
        close(found, wanted["gram"], what=f"chunk_size={chunk_size} ")
    O = operator(PERCEPTRON)
    names = tuple(name for name in ALL if name != "cross")
    close(asked(O, names, given(PERCEPTRON)), {name: wanted[name] for name in names})
    flat = ravel_pytree(given(PERCEPTRON)["v"])[0]
    close(O @ flat, wanted["product"])
    close(O.gram(O), wanted["gram"])


def test_operators_go_through_jit():
    scenario = NAMED["convolution"]
    make = jax.jit(lambda params, X: operator(scenario, params, X))
    O = make(scenario.params, scenario.X)
    wanted = expected(scenario, ("dense", "gram", "norms"))
    assert O.shape == wanted["dense"].shape
    close(jax.jit(lambda O: O.gram())(O), wanted["gram"])
    close(O.squared_norms(), wanted["norms"])
    changed = jax.tree.map(lambda leaf: 1.1 * leaf, O)
    moved = jax.tree.map(lambda leaf: 1.1 * leaf, scenario.params)
    J = dense_reference(scenario, moved, 1.1 * scenario.X)
    close(changed.dense(), np.asarray(J).reshape(O.shape), what="an operator is a pytree of parameters and samples")


def test_vmap_over_parameters_and_over_batches():
    scenario = NAMED["layer_twice"]
    moved = [jax.tree.map(lambda leaf, s=s: s * leaf, scenario.params) for s in (1.0, 0.5, -0.8)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *moved)
    X = jnp.stack([scenario.X, scenario.X[::-1] + 0.1, -scenario.X])

    names, asking = ("gram", "norms", "adjoint"), given(scenario)

    @jax.jit
    @jax.vmap
    def found(params, X):
        return asked(operator(scenario, params, X, chunk_size=2), names, asking)

    @jax.jit
    @jax.vmap
    def wanted(params, X):
        return from_dense(dense_reference(scenario, params, X), names, cut(params), asking)

    close(found(stacked, X), wanted(stacked, X))


def test_second_derivatives_of_products():
    """grad of a gradient through the kernel, and forward mode through it."""
    scenario = NAMED["scalar_output"]
    v = given(scenario)["v"]
    found = lambda params: jnp.sum(jnp.sin(operator(scenario, params).gram()))

    def wanted(params):
        J = dense_reference(scenario, params, scenario.X)[:, 0]
        return jnp.sum(jnp.sin(J @ J.T))

    def twice(function):
        return jax.jit(lambda params: jax.jvp(jax.grad(function), (params,), (v,)))(scenario.params)

    close(twice(found), twice(wanted), 1e-9)


# -------------------------------------------------------------------------------------------------------- two operators


def test_gram_of_two_models_and_two_batches():
    """Interior and boundary of an equation: the same network, two outputs; the kernel of both together."""
    params, draw = layers(Draw("two models"), 3, 4, 2), Draw("two batches")
    interior, boundary = draw(D, 3), draw(4, 2, 3)
    inside = lambda p, x: nablax.laplacian(lambda p, x: mlp(p, x)[0])(p, x[None])[0]
    at = lambda p, x: jax.vmap(lambda z: mlp(p, z))(x).T * jnp.asarray([[1.0], [2.0]])

    @jax.jit
    def found(params):
        O, P = nablax.parameter_jacobian(inside)(params, interior), nablax.parameter_jacobian(at)(params, boundary)
        return O.gram(P), P.gram(O), (O.shape, P.shape)

    def array(model, X):
        one = jax.jit(jax.vmap(lambda x: ravel_pytree(jax.jacrev(model)(params, x))[0]))
        return np.asarray(one(X))

    J = array(inside, interior)
    flat = lambda part: lambda p, x: at(p, x)[part // 2, part % 2]
    K = np.stack([array(flat(part), boundary) for part in range(4)], 1).reshape(4, 2, 2, -1)
    one, other, shapes = found(params)
    assert shapes == ((D, 26), (4, 2, 2, 26))
    close(one, np.einsum("db,eijb->deij", J, K))
    close(other, np.einsum("db,eijb->eijd", J, K))


def test_gram_piece_by_piece(monkeypatch):
    """Pieces of two samples: of five, of seven with five, and differentiated."""
    scenario = PERCEPTRON

    def found(params, other):
        O = nablax.parameter_jacobian(scenario.model)(params, scenario.X)
        return O.gram(), O.gram(nablax.parameter_jacobian(scenario.model)(params, other))

    def loss(params, other):
        return sum(jnp.sum(jnp.sin(jnp.abs(K) ** 2)) for K in found(params, other))

    def both(other):
        # Traced anew at each call: the size of the pieces is read then.
        return jax.jit(lambda *given: (found(*given), jax.grad(loss)(*given)))(scenario.params, other)

    other = jnp.concatenate([scenario.X, scenario.X[:2] * 0.7])
    whole = both(other)
    rows = whole[0][0].shape[1]
    monkeypatch.setattr("nablax.parameters.gram.PIECE_BYTES", (2 * rows) ** 2 * 8)
    pieces = both(other)
    for one, two in zip(*(jax.tree.leaves(x) for x in (whole, pieces)), strict=True):
        close(two, np.asarray(one))


def test_gram_refuses_other_parameters():
    O = operator(PERCEPTRON)
    for other in (operator(NAMED["scalar_output"]), operator(NAMED["jitted"]), "gram", np.ones((D, 2, 60))):
        with pytest.raises(errors.OptionError, match="gram"):
            O.gram(other)


# -------------------------------------------------------------------------------------------------- gradients of losses


def _loss(params, x, y):
    return jnp.sum((mlp(params, x) - y) ** 2)


@functools.cache
def _regression():
    draw = Draw("regression")
    params, X, Y = layers(draw, 3, 4, 2), draw(D, 3), draw(D, 2)
    one = jax.jit(jax.vmap(jax.grad(_loss), (None, 0, 0)))
    return params, X, Y, jax.tree.map(np.asarray, one(params, X, Y))


def test_per_sample_gradients():
    params, X, Y, gradients = _regression()
    G = nablax.per_sample_gradients(_loss, chunk_size=2)(params, X, Y)
    assert G.shape == (D, 26)
    close(G.tree(), gradients)
    J = np.concatenate([leaf.reshape(D, -1) for leaf in jax.tree.leaves(gradients)], 1)
    close(G.dense(), J)
    close(G.gram(), J @ J.T)
    close(G.squared_norms(), np.sum(J**2, 1))
    close(G.T @ jnp.ones(D), jax.tree.map(lambda leaf: leaf.sum(0), gradients))


def test_per_sample_gradients_with_other_arguments():
    """Every argument has samples by default, whatever its place; in_axes can say otherwise."""
    params, X, Y, _ = _regression()
    mass, scale = Draw("mass").positive(D), jnp.asarray(0.7)

    def loss(params, x, y, mass, scale=1.0):
        return mass * jnp.sum(jnp.abs(scale * mlp(params, x) - y["y"]) ** 3)

    def wanted(*more):
        axes = (None, 0, 0, 0, None)[: 4 + len(more)]
        return jax.vmap(jax.grad(loss), axes)(params, X, {"y": Y}, mass, *more)

    close(nablax.per_sample_gradients(loss)(params, X, {"y": Y}, mass).tree(), wanted())
    G = nablax.per_sample_gradients(loss, in_axes=(None, 0, 0, 0, None))(params, X, {"y": Y}, mass, scale)
    close(G.tree(), wanted(scale))
    late = nablax.per_sample_gradients(lambda x, p, y: _loss(p, x, y), wrt=1)(X, params, Y)
    close(late.tree(), _regression()[3])


def test_per_sample_gradients_of_a_vector_is_refused():
    params, X, Y, _ = _regression()
    with pytest.raises(errors.NablaxError, match="per_sample_gradients"):
        nablax.per_sample_gradients(lambda p, x, y: mlp(p, x) - y)(params, X, Y)


@pytest.mark.parametrize("chunk_size", (2, None))
def test_clipped_mean(chunk_size):
    params, X, Y, gradients = _regression()
    J = np.concatenate([leaf.reshape(D, -1) for leaf in jax.tree.leaves(gradients)], 1)
    norms = np.linalg.norm(J, axis=1)
    limit = float(np.median(norms))

    def wanted(limit):
        factor = np.minimum(1.0, limit / norms)
        return jax.tree.map(lambda leaf: np.einsum("d,d...->...", factor, leaf) / D, gradients)

    clipped = jax.jit(
        lambda params, limit: nablax.per_sample_gradients(_loss, chunk_size=chunk_size)(params, X, Y).clipped_mean(
            limit
        )
    )
    assert np.sum(norms > limit) == 2
    for given_limit in (limit, 0.5 * float(norms.min()), 2 * float(norms.max())):
        close(clipped(params, given_limit), wanted(given_limit), what=f"max_norm={given_limit} ")


def test_clipped_mean_of_vanishing_gradients_is_finite_and_so_is_its_gradient():
    params, X, _, _ = _regression()
    perfect = jax.vmap(mlp, (None, 0))(params, X).at[0].add(1.0)

    def size(params):
        mean = nablax.per_sample_gradients(_loss)(params, X, perfect).clipped_mean(0.5)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(mean)), mean

    (_, mean), slope = jax.jit(jax.value_and_grad(size, has_aux=True))(params)
    first = jax.grad(_loss)(params, X[0], perfect[0])
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(first)))
    close(mean, jax.tree.map(lambda leaf: np.asarray(0.5 / norm * leaf / D), first))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))


def test_clipped_mean_needs_scalars():
    with pytest.raises(errors.OptionError, match=r"clipped_mean.*scalar"):
        operator(PERCEPTRON).clipped_mean(1.0)


def test_has_aux():
    model = lambda p, x: (jnp.tanh(p["W"] @ x), {"squares": x**2, "count": jnp.asarray(3)})
    draw = Draw("aux")
    params, X = {"W": draw(2, 3)}, draw(D, 3)
    O, aux = nablax.parameter_jacobian(model, has_aux=True)(params, X)
    assert O.shape == (D, 2, 6)
    close(aux["squares"], np.asarray(X) ** 2)
    np.testing.assert_array_equal(aux["count"], np.full(D, 3))
    wanted = jax.vmap(jax.jacrev(lambda p, x: model(p, x)[0]), (None, 0))(params, X)
    close(O.tree(), wanted)


# --------------------------------------------------------------------------------------------------------------- errors


def test_dense_beyond_the_budget():
    """5 * 2 * 60 * 8 = 4800 bytes; what never forms the array still works."""
    O = operator(PERCEPTRON, memory_budget=4700)
    for form in (O.dense, O.tree):
        with pytest.raises(errors.MemoryBudgetError, match=re.compile(r"4\.7 ?KiB.*gram.*squared_norms", re.S)):
            form()
    with pytest.raises(errors.MemoryBudgetError, match="fisher"):  # 60 * 60 * 8 bytes
        O.fisher()
    wanted = expected(PERCEPTRON, ("norms", "dense"))
    close(O.squared_norms(), wanted["norms"])
    close(O.rows(slice(0, 2)).dense(), wanted["dense"][:2])
    assert isinstance(operator(PERCEPTRON, memory_budget=4800).dense(), jax.Array)


def test_centring_what_is_weighted():
    O = operator(PERCEPTRON)
    for weights in (jnp.ones(D), jnp.ones((D, 2))):
        with pytest.raises(errors.OptionError, match="centred"):
            O.weighted(weights).centred()


@pytest.mark.parametrize(
    "ask, message",
    {
        "rows of the adjoint": (lambda O: O.T @ jnp.ones((2, D)), r"\(2, 5\).*\(5, 2\)"),
        "flat rows of the adjoint": (lambda O: O.T @ jnp.ones(2 * D), r"\(10,\)"),
        "flat direction": (lambda O: O @ jnp.ones(59), r"\(59,\).*60"),
        "direction of another structure": (lambda O: O @ PERCEPTRON.params[:2], "O @ v"),
        "direction of other shapes": (lambda O: O @ jax.tree.map(lambda leaf: leaf.T, PERCEPTRON.params), "O @ v"),
        "weights of fisher": (lambda O: O.fisher(jnp.ones(2)), r"\(2,\).*\(5,\)"),
        "weights of fisher_diagonal": (lambda O: O.fisher_diagonal(jnp.ones((2, D))), r"\(2, 5\).*\(5, 2\)"),
        "weights of the rows": (lambda O: O.weighted(jnp.ones((D, 1))), r"\(5, 1\).*\(5, 2\)"),
        "weights of the mean": (lambda O: O.centred(jnp.ones((D, 2))), r"\(5, 2\).*\(5,\)"),
        "a number for a slice": (lambda O: O.rows(2), "slice"),
        "an empty slice": (lambda O: O.rows(slice(5, 9)), "5"),
        "as what": (lambda O: O.as_lineax(of="hessian"), "hessian.*jacobian.*fisher.*gram"),
    }.values(),
)
def test_wrong_arguments_of_methods(ask, message):
    with pytest.raises(errors.OptionError, match=re.compile(message, re.S)):
        ask(operator(PERCEPTRON))


def test_wrong_arguments_of_the_transform():
    params, X = PERCEPTRON.params, PERCEPTRON.X
    with pytest.raises(errors.OptionError, match="fourier"):
        nablax.parameter_jacobian(mlp, mode="fourier")
    with pytest.raises(errors.OptionError, match="chunk_size"):
        nablax.parameter_jacobian(mlp, chunk_size=0)
    with pytest.raises(errors.NablaxError, match="in_axes"):
        nablax.parameter_jacobian(mlp, in_axes=(None, None))(params, X)
    with pytest.raises(errors.NablaxError, match="parameters"):  # samples on an axis of the parameters
        nablax.parameter_jacobian(mlp, in_axes=(0, None))(
            jax.tree.map(lambda leaf: jnp.stack([leaf] * D), params), X[0]
        )
    with pytest.raises(errors.InputTypeError, match=r"count.*int"):
        nablax.parameter_jacobian(lambda p, x: p["W"] @ x)({"W": jnp.ones((2, 3)), "count": jnp.asarray(3)}, X)
    with pytest.raises(errors.InputTypeError):
        nablax.parameter_jacobian(lambda p, x: x)({}, X)
    with pytest.raises(errors.NablaxError):  # an output that is no floating-point number
        nablax.parameter_jacobian(lambda p, x: jnp.argmax(mlp(p, x)))(params, X)


def test_model_with_a_while_loop():
    """JAX has no reverse mode through it: a named error, but for the product that needs none."""

    def model(p, x):
        return jax.lax.while_loop(lambda z: jnp.sum(z**2) > 1.0, lambda z: jnp.tanh(p["W"] @ z), x)

    draw = Draw("while")
    params, X = {"W": 0.5 * draw(3, 3)}, 2 * draw(D, 3)
    O = nablax.parameter_jacobian(model)(params, X)
    for ask in (O.dense, O.gram, O.squared_norms, lambda: O.T @ jnp.ones((D, 3))):
        with pytest.raises(errors.NablaxError, match="while_loop"):
            ask()
    wanted = jax.jvp(lambda p: jax.vmap(model, (None, 0))(p, X), (params,), (params,))[1]
    close(O @ params, wanted)


def test_a_while_loop_without_parameters_is_no_obstacle():
    def model(p, x):
        small = jax.lax.while_loop(lambda z: jnp.sum(z**2) > 1.0, lambda z: 0.5 * z, x)
        return jnp.tanh(p["W"] @ small)

    draw = Draw("harmless while")
    params, X = {"W": draw(2, 3)}, 3 * draw(D, 3)
    small = jax.vmap(lambda x: jax.lax.while_loop(lambda z: jnp.sum(z**2) > 1.0, lambda z: 0.5 * z, x))(X)
    wanted = jax.vmap(jax.jacrev(lambda p, x: jnp.tanh(p["W"] @ x)), (None, 0))(params, small)
    close(nablax.parameter_jacobian(model)(params, X).tree(), wanted)
