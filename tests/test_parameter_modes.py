"""Complex parameters and outputs: by real coordinates, and as holomorphic functions."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import lax
from jax.flatten_util import ravel_pytree
from parameter_scenarios import (
    D,
    asked,
    complex_reference,
    coordinates,
    cut,
    cut_coordinates,
    from_dense,
    layers,
    mlp,
    packed,
)
from scenarios import Draw

import nablax
from nablax import errors

# By turns, to save time.
NAMES = (
    ("tree", "gram", "norms", "product", "adjoint", "fisher"),
    ("dense", "cross", "diagonal", "product", "adjoint", "fisher of rows"),
)
DRAW = Draw("complex parameters")


def complexes(*shape, scale=1.0):
    return lax.complex(DRAW(*shape, scale=scale), DRAW(*shape, scale=scale))


def _wavefunction(p, x):
    """A restricted Boltzmann machine: the logarithm of an amplitude."""
    return jnp.dot(p["a"], x) + jnp.sum(jnp.log(jnp.cosh(p["W"] @ x + p["b"])))


def _recurrence(p, x):
    def step(h, token):
        h = jnp.tanh(p["W"] @ h + p["U"] * token)
        return h, None

    return lax.scan(step, p["h"], x)[0][:2]


def _convolution(p, x):
    z = lax.conv_general_dilated(x[None, None].astype(complex), p["kernel"], (2,), [(1, 1)])[0]
    return jnp.sum(jnp.exp(0.3j * z) * z, axis=1)


def _lookup(p, x):
    rows = p["E"][jnp.asarray([0, 3, 3])]
    return jnp.sum(rows * jnp.conj(p["E"][1])[None] * x[:, None], axis=0)


# Model and parameters; x is real unless a scenario has its own batch.
COMPLEX = {
    "real output": (
        lambda p, x: jnp.abs(p["V"] @ jnp.tanh(p["W"] @ x + p["b"])) ** 2,
        {"W": complexes(4, 3, scale=0.5), "b": complexes(4), "V": complexes(2, 4)},
    ),
    "real output, mixed parameters": (
        lambda p, x: jnp.real(jnp.dot(p["V"], jnp.sin(p["W"] @ x + p["b"]))),
        {"W": DRAW(4, 3), "b": complexes(4), "V": complexes(4)},
    ),
    "real parameters": (
        lambda p, x: jnp.exp(1j * (p["W"] @ x)) * mlp(p["amplitude"], x),
        {"W": DRAW(2, 3), "amplitude": layers(DRAW, 3, 4, 2)},
    ),
    "mixed parameters": (
        lambda p, x: jnp.conj(p["W"] @ x) * jnp.exp(p["phase"] * 1j) + p["V"] @ jnp.abs(p["W"] @ x),
        {"W": complexes(2, 3), "phase": DRAW(2), "V": DRAW(2, 2)},
    ),
    "wavefunction": (_wavefunction, {"a": complexes(3), "W": complexes(4, 3, scale=0.5), "b": complexes(4, scale=0.5)}),
    "recurrence": (_recurrence, {"W": complexes(4, 4, scale=0.4), "U": complexes(4), "h": DRAW(4).astype(complex)}),
    "convolution": (_convolution, {"kernel": complexes(2, 1, 2)}),
    "lookup": (_lookup, {"E": complexes(4, 2)}),
    "complex samples": (
        lambda p, x: jnp.tanh(p["W"] @ x + p["b"]) * jnp.vdot(x, x),
        {"W": DRAW(2, 3, scale=0.5), "b": DRAW(2)},
        complexes(D, 3, scale=0.5),
        complexes(4, 3, scale=0.5),
    ),
}
# Holomorphic in their parameters, whatever they do with the sample.
HOLOMORPHIC = {
    "wavefunction": COMPLEX["wavefunction"],
    "recurrence": COMPLEX["recurrence"],
    "convolution": COMPLEX["convolution"],
    "network": (
        lambda p, x: p["V"] @ jnp.tanh(p["W"] @ (x + 0j) + p["b"]) / (3.0 + p["c"] ** 2),
        {"W": complexes(4, 3, scale=0.4), "b": complexes(4), "V": complexes(2, 4), "c": complexes(2, scale=0.3)},
    ),
    "products of exponentials": (
        lambda p, x: jnp.exp(p["a"] * x) * jnp.sin(p["b"] ** 3) - jnp.prod(p["a"][None, :] + x[:, None], axis=0),
        {"a": complexes(3, scale=0.5), "b": complexes(3, scale=0.5)},
    ),
    "conjugate sample": (
        lambda p, x: (p["W"] @ jnp.conj(x)) * jnp.abs(x[0]) + jnp.real(x[:2]) * p["b"],
        {"W": complexes(2, 3), "b": complexes(2)},
        complexes(D, 3),
        complexes(4, 3),
    ),
}
X, OTHER = DRAW(D, 3), DRAW(4, 3)


def setting(found):
    """Model, parameters, batch and other batch."""
    return found if len(found) == 4 else (*found, X, OTHER)


def output_of(model, params, X):
    return jax.eval_shape(jax.vmap(model, (None, 0)), params, X)


def given(model, params, X):
    """A direction like the parameters, and rows and their weights like the outputs."""
    y, draw = output_of(model, params, X), Draw("given to complex models")
    number = lambda like, *shape: draw(*shape) + (1j * draw(*shape) if jnp.iscomplexobj(like) else 0)
    rows = number(y, *y.shape)
    return {"v": jax.tree.map(lambda leaf: number(leaf, *leaf.shape), params), "w": rows, "of_rows": draw(*y.shape)}


def parts(tree):
    """Real and imaginary parts apart, so that each is compared to its own size and dtypes tell."""
    return jax.tree.map(lambda leaf: (leaf.real, leaf.imag) if np.iscomplexobj(leaf) else leaf, tree)


@functools.cache
def real_coordinates(name):
    """The arrays of both batches, by real coordinates; complex where the output is."""
    model, params, X, other = setting(COMPLEX[name])
    both = lambda params: complex_reference(model, params, jnp.concatenate([X, other]))
    J = np.asarray(jax.jit(both)(params))
    return J[:D], J[D:]


def expected_of(name, names):
    model, params, X, _ = setting(COMPLEX[name])
    J, other = real_coordinates(name)
    asking = given(model, params, X)
    asking = jax.tree.map(np.asarray, asking | {"v": coordinates(asking["v"])})
    split = cut_coordinates(params)
    found = from_dense(J, names, split, asking, other)
    if "adjoint" in names:
        found["adjoint"] = packed((J.reshape(-1, J.shape[-1]).conj().T @ asking["w"].reshape(-1)).real, params)
    return found | {each: found[each].real for each in names if each.startswith("fisher")}


def by_turns(names):
    """Every second one is for `make slow`."""
    return [pytest.param(name, marks=pytest.mark.slow if i % 2 else ()) for i, name in enumerate(names)]


@pytest.mark.parametrize("name", by_turns(COMPLEX))
def test_by_real_coordinates(name):
    """The default as soon as something is complex."""
    model, params, X, other = setting(COMPLEX[name])
    number = list(COMPLEX).index(name)
    names = NAMES[number % 2]
    options = {"chunk_size": (2, None, None)[number % 3]} | ({"mode": "complex"} if number % 4 else {})
    transform = nablax.parameter_jacobian(model, **options)
    everything = jax.jit(lambda params, given: asked(transform(params, X), names, given, transform(params, other)))
    found = everything(params, given(model, params, X))
    reference.assert_close(parts(found), parts(jax.tree.map(np.asarray, expected_of(name, names))), 1e-10)
    y = output_of(model, params, X)
    assert transform(params, X).shape == (*y.shape, coordinates(params).size)
    kernel = found["gram" if "gram" in names else "cross"]
    assert jnp.iscomplexobj(kernel) == jnp.iscomplexobj(y)


def test_directions_of_real_coordinates():
    """A flat vector (B,) has the coordinates in the order of the columns; lineax has trees of complex leaves."""
    model, params = COMPLEX["mixed parameters"]
    O, asking = nablax.parameter_jacobian(model)(params, X), given(model, params, X)
    wanted = expected_of("mixed parameters", ("product",))
    reference.assert_close(O @ coordinates(asking["v"]), wanted["product"])
    reference.assert_close(O.as_lineax().mv(asking["v"]), wanted["product"])
    J, _ = real_coordinates("mixed parameters")
    J = J.reshape(-1, J.shape[-1])
    fisher = packed(jnp.asarray((J.conj().T @ J).real @ np.asarray(coordinates(asking["v"]))), params)
    reference.assert_close(O.as_lineax("fisher").mv(asking["v"]), fisher)


def test_centred_and_weighted_wavefunction():
    """What stochastic reconfiguration needs: centred log-derivatives with the weights of a sample."""
    model, params = COMPLEX["wavefunction"]
    probability = Draw("probability").positive(D)
    J, _ = real_coordinates("wavefunction")
    p = np.asarray(probability / probability.sum())
    centred = (J - (p[:, None] * J).sum(0)[None]) * np.sqrt(p)[:, None]

    @jax.jit
    def found(params):
        O = nablax.parameter_jacobian(model, chunk_size=2)(params, X).centred(probability).weighted(jnp.sqrt(p))
        return asked(O, ("gram", "norms", "fisher", "tree"), {})

    wanted = from_dense(centred, ("gram", "norms", "fisher", "tree"), cut_coordinates(params), {})
    reference.assert_close(parts(found(params)), parts(wanted | {"fisher": wanted["fisher"].real}), 1e-10)


@pytest.mark.parametrize("name", ("real output", "wavefunction"))
def test_gradient_through_real_coordinates(name):
    model, params = COMPLEX[name]
    scale = float(np.abs(expected_of(name, ("gram",))["gram"]).max())

    def loss(gram, norms):
        return jnp.sum(jnp.sin(gram.real / scale)) + jnp.sum(jnp.cos(gram.imag / scale)) + jnp.sum(norms**2) / scale**2

    def found(params):
        O = nablax.parameter_jacobian(model)(params, X)
        return loss(O.gram(), O.squared_norms())

    def wanted(params):
        J = complex_reference(model, params, X)
        results = from_dense(J, ("gram", "norms"), None, {})
        return loss(results["gram"], results["norms"])

    reference.assert_close(jax.jit(jax.grad(found))(params), jax.jit(jax.grad(wanted))(params), 1e-9)


def test_real_models_in_both_modes():
    params = layers(Draw("real in both modes"), 3, 4, 2)
    real, by_parts = (nablax.parameter_jacobian(mlp, mode=mode)(params, X) for mode in ("real", "complex"))
    assert real.shape == by_parts.shape
    reference.assert_close(by_parts.tree(), real.tree())
    reference.assert_close(by_parts.gram(), real.gram())
    assert nablax.parameter_jacobian(mlp)(params, X).dense().dtype == jnp.float64


# ---------------------------------------------------------------------------------------------------------- holomorphic


@pytest.mark.parametrize("name", by_turns(HOLOMORPHIC))
def test_holomorphic(name):
    model, params, X, other = setting(HOLOMORPHIC[name])
    number = list(HOLOMORPHIC).index(name)
    names = NAMES[(number + 1) % 2]

    @jax.jit
    def array(params):
        batch = jnp.concatenate([X, other]).astype(complex if jnp.iscomplexobj(X) else float)
        tree = jax.jit(jax.vmap(lambda x: jax.jacrev(lambda p: model(p, x), holomorphic=True)(params)))(batch)
        y = output_of(model, params, X).shape[1:]
        return jnp.concatenate([leaf.reshape(*leaf.shape[: 1 + len(y)], -1) for leaf in jax.tree.leaves(tree)], -1)

    J = np.asarray(array(params))
    asking = given(model, params, X)
    flat = {key: np.asarray(each) for key, each in (asking | {"v": ravel_pytree(asking["v"])[0]}).items()}
    wanted = from_dense(J[:D], names, cut(params), flat, J[D:])
    transform = nablax.parameter_jacobian(model, mode="holomorphic", chunk_size=(None, None, 2)[number % 3])
    O, partner = transform(params, X), transform(params, other)
    found = jax.jit(lambda O, partner, given: asked(O, names, given, partner))(O, partner, asking)
    reference.assert_close(parts(found), parts(wanted), 1e-10)
    assert O.shape == J[:D].shape
    assert O.squared_norms().dtype == jnp.float64


def test_complex_gram_piece_by_piece(monkeypatch):
    """What is copied below the diagonal is conjugated."""
    model, params = HOLOMORPHIC["wavefunction"]
    O = nablax.parameter_jacobian(model, mode="holomorphic")(params, X)
    J = np.asarray(O.dense())
    monkeypatch.setattr("nablax.parameters.gram.PIECE_BYTES", 2**2 * 16)
    found = jax.jit(lambda O: O.gram())(O)
    np.testing.assert_allclose(found, np.tensordot(J, J.conj(), (-1, -1)), rtol=1e-12)


def test_gradient_through_holomorphic_derivatives():
    model, params = HOLOMORPHIC["wavefunction"]
    O = lambda params: nablax.parameter_jacobian(model, mode="holomorphic")(params, X)
    assert isinstance(jax.jit(lambda: O(params).gram())(), jax.Array), "closed-over parameters are known inside of jit"

    def jacobian(params):
        tree = jax.jit(jax.vmap(lambda x: jax.jacrev(lambda p: model(p, x), holomorphic=True)(params)))(X)
        return jnp.concatenate([leaf.reshape(D, -1) for leaf in jax.tree.leaves(tree)], axis=-1)

    found = jax.grad(lambda params: jnp.sum(jnp.sin(O(params).squared_norms())))
    wanted = jax.grad(lambda params: jnp.sum(jnp.sin(jnp.sum(jnp.abs(jacobian(params)) ** 2, axis=-1))))
    reference.assert_close(jax.jit(found)(params), jax.jit(wanted)(params), 1e-9)


REFUSED = {
    "conj": lambda p, x: (p["W"] @ x) * jnp.conj(p["W"] @ x),
    "abs": lambda p, x: (p["W"] @ x) * jnp.abs(p["W"] @ x),
    "real": lambda p, x: p["W"] @ x + jnp.real(p["W"] @ x),
    "imag": lambda p, x: jnp.exp(p["W"] @ x) * jnp.imag(p["W"]).sum(),
}


@pytest.mark.parametrize("primitive", REFUSED)
def test_not_holomorphic(primitive):
    """The operation that is to blame is named, also where it hides in a loop."""
    params = {"W": COMPLEX["mixed parameters"][1]["W"]}
    inside = lambda p, x: lax.scan(lambda z, _: (z + REFUSED[primitive](p, x), None), jnp.zeros(2, complex), None, 2)[0]
    for model in (REFUSED[primitive], inside):
        with pytest.raises(errors.HolomorphyError, match=re.compile(rf"\b{primitive}\b.*mode=\"complex\"", re.S)):
            nablax.parameter_jacobian(model, mode="holomorphic")(params, X)


def test_squared_modulus_is_not_holomorphic():
    """Its output is real, which the dtypes tell."""
    params = {"W": COMPLEX["mixed parameters"][1]["W"]}
    for model in (lambda p, x: jnp.abs(p["W"] @ x) ** 2, lambda p, x: jnp.real(p["W"] @ x)):
        with pytest.raises(errors.NablaxError, match="complex"):
            nablax.parameter_jacobian(model, mode="holomorphic")(params, X)


def test_modes_that_do_not_fit():
    real, both = layers(Draw("modes"), 3, 4, 2), COMPLEX["mixed parameters"]
    with pytest.raises(errors.OptionError, match="complex"):
        nablax.parameter_jacobian(both[0], mode="real")(both[1], X)
    with pytest.raises(errors.OptionError, match=r"\['(V|phase)'\]"):  # the parameters that are real
        nablax.parameter_jacobian(both[0], mode="holomorphic")(both[1], X)
    with pytest.raises(errors.OptionError, match="complex"):
        nablax.parameter_jacobian(mlp, mode="holomorphic")(real, X)
    params, modes = COMPLEX["wavefunction"][1], ("complex", "holomorphic")
    O, P = (nablax.parameter_jacobian(_wavefunction, mode=mode)(params, X) for mode in modes)
    with pytest.raises(errors.OptionError, match="mode"):
        O.gram(P)
