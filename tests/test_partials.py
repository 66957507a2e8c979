"""Partial derivatives by name, against solutions of differential equations that are known on paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_close
from scenarios import Draw

import nablax

draw = Draw("test_partials")
D = 7
TX = draw(D, 2)
T, XS = TX[:, 0], TX[:, 1]

STRATEGIES = ("auto", "forward_over_reverse", "forward_over_forward", "reverse_over_reverse")


def polynomial(k, v):
    """k t^2 x^3 y^4."""
    return k * v[0] ** 2 * v[1] ** 3 * v[2] ** 4


TXY = draw(D, 3)
K = jnp.asarray(1.7)
t, x, y = TXY.T
# Every order up to 4, mixed, and in several spellings.
POLYNOMIAL = {
    "u": K * t**2 * x**3 * y**4,
    "u_t": 2 * K * t * x**3 * y**4,
    "u_y": 4 * K * t**2 * x**3 * y**3,
    "u_tx": 6 * K * t * x**2 * y**4,
    "u_xt": 6 * K * t * x**2 * y**4,
    "u_x_t": 6 * K * t * x**2 * y**4,
    "u_xx": 6 * K * t**2 * x * y**4,
    "u_xyt": 24 * K * t * x**2 * y**3,
    "u_xxx": 6 * K * t**2 * y**4,
    "u_xyx": 24 * K * t**2 * x * y**3,
    "u_ttt": 0 * t,
    "u_yyyy": 24 * K * t**2 * x**3,
    "u_ytyx": 72 * K * t * x**2 * y**2,
    "u_ttxy": 24 * K * x**2 * y**3,
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_polynomial_up_to_order_4(strategy):
    found = nablax.partials(polynomial, "t x y", " ".join(POLYNOMIAL), strategy=strategy)(K, TXY)
    assert list(found) == list(POLYNOMIAL) or set(found) == set(POLYNOMIAL)
    assert_close(found, POLYNOMIAL)


@pytest.mark.parametrize("name", ["u", "u_y", "u_xt", "u_xyx", "u_ytyx"])
def test_one_name_alone(name):
    """Alone, a derivative is not a by-product of a longer one."""
    assert_close(nablax.partials(polynomial, "t x y", name)(K, TXY), {name: POLYNOMIAL[name]})


@pytest.mark.parametrize("strategy", ["forward", "reverse"])
def test_first_order_strategies(strategy):
    names = ("u", "u_t", "u_y")
    found = nablax.partials(polynomial, "t x y", names, strategy=strategy)(K, TXY)
    assert_close(found, {name: POLYNOMIAL[name] for name in names})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gradient_by_parameters(strategy):
    """d/dk of everything: what is linear in k is its own derivative times k."""
    names = ("u", "u_xt", "u_yyx" if strategy == "auto" else "u_yy")
    exact = {**POLYNOMIAL, "u_yyx": 36 * K * t**2 * x**2 * y**2, "u_yy": 12 * K * t**2 * x**3 * y**2}
    weights = {name: Draw(name)(D) for name in names}

    def loss(k):
        found = nablax.partials(polynomial, "t x y", names, strategy=strategy, chunk_size=3)(k, TXY)
        return sum(jnp.vdot(weights[name], found[name]) for name in names)

    exact = sum(jnp.vdot(weights[name], exact[name]) for name in names) / K
    assert_close(jax.jit(jax.grad(loss))(K), exact, 1e-9)


def test_heat_equation():
    """u = exp(-a k^2 t) sin(k x) solves u_t = a u_xx."""
    heat = lambda p, v: jnp.exp(-p["a"] * p["k"] ** 2 * v[0]) * jnp.sin(p["k"] * v[1])
    p = {"a": 0.3, "k": 1.9}
    u = nablax.partials(heat, coordinates="t x", of="u u_t u_xx")(p, TX)
    assert set(u) == {"u", "u_t", "u_xx"}
    assert all(array.shape == (D,) for array in u.values())
    assert_close(u["u_t"], p["a"] * u["u_xx"])
    assert_close(u["u_xx"], -(p["k"] ** 2) * u["u"])


def test_burgers_equation():
    """The travelling wave u = c - c tanh(c (x - c t) / (2 nu)) solves u_t + u u_x = nu u_xx."""
    nu, c = 0.4, 0.8
    wave = lambda v: c - c * jnp.tanh(c * (v[1] - c * v[0]) / (2 * nu))
    u = nablax.partials(wave, coordinates="t x", of="u u_t u_x u_xx")(TX)
    z = c * (XS - c * T) / (2 * nu)
    assert_close(u["u_x"], -(c**2) / (2 * nu) / jnp.cosh(z) ** 2)
    residual = u["u_t"] + u["u"] * u["u_x"] - nu * u["u_xx"]
    assert np.max(np.abs(residual)) < 1e-12 * np.max(np.abs(u["u_xx"]))


def test_kuramoto_sivashinsky_orders():
    """A fourth derivative beside a second and a first, of u = sin(x) exp(-t)."""
    u = nablax.partials(lambda v: jnp.sin(v[1]) * jnp.exp(-v[0]), "t x", "u_xxxx u_xx u_t u_xxx")(TX)
    s, c, e = jnp.sin(XS), jnp.cos(XS), jnp.exp(-T)
    assert_close(u, {"u_xxxx": s * e, "u_xx": -s * e, "u_t": -s * e, "u_xxx": -c * e})


class TestOutputs:
    """Vector outputs, whole or by name."""

    flow = staticmethod(lambda k, v: jnp.stack([v[0] * v[1] ** 2, jnp.sin(k * v[0]), v[0] + v[1] ** 3]))

    def test_whole_output(self):
        u = nablax.partials(self.flow, "t x", "u u_x u_xx")(2.0, TX)
        assert u["u"].shape == (D, 3)
        zero = 0 * T
        assert_close(u["u_x"], jnp.stack([2 * T * XS, zero, 3 * XS**2], -1))
        assert_close(u["u_xx"], jnp.stack([2 * T, zero, 6 * XS], -1))

    def test_by_name(self):
        found = nablax.partials(self.flow, "t x", "u_x v_t p p_xx v_tt", outputs="u v p")(2.0, TX)
        exact = {
            "u_x": 2 * T * XS,
            "v_t": 2 * jnp.cos(2 * T),
            "p": T + XS**3,
            "p_xx": 6 * XS,
            "v_tt": -4 * jnp.sin(2 * T),
        }
        assert_close(found, exact)

    def test_names_as_sequences(self):
        found = nablax.partials(self.flow, ["t", "x"], ("u_x", "p"), outputs=["u", "v", "p"])(2.0, TX)
        assert set(found) == {"u_x", "p"}

    def test_any_base_name_without_outputs(self):
        assert set(nablax.partials(self.flow, "t x", "psi psi_x")(2.0, TX)) == {"psi", "psi_x"}

    def test_matrix_output_and_tree_output(self):
        f = lambda v: {"a": jnp.outer(v, v), "b": v[1] ** 3}
        u = nablax.partials(f, "t x", "u_x u_xx")(TX)
        assert u["u_x"]["a"].shape == (D, 2, 2)
        assert_close(u["u_xx"]["b"], 6 * XS)
        assert_close(u["u_x"]["a"][:, 0, 1], T)

    def test_complex_output(self):
        found = nablax.partials(lambda v: jnp.exp(1j * v[0]) * v[1] ** 2, "t x", "u_t u_tx u_txx u_xx")(TX)
        wave = jnp.exp(1j * T)
        exact = {"u_t": 1j * wave * XS**2, "u_tx": 2j * wave * XS, "u_txx": 2j * wave, "u_xx": 2 * wave}
        assert_close(found, exact)


class TestCoordinates:
    def test_names_of_several_letters(self):
        f = lambda v: v[0] ** 2 * v[1] ** 3
        found = nablax.partials(f, "time radius", "u_time u_timeradius u_radius_time u_radiusradius")(TX)
        mixed = 6 * T * XS**2
        exact = {
            "u_time": 2 * T * XS**3,
            "u_timeradius": mixed,
            "u_radius_time": mixed,
            "u_radiusradius": 6 * T**2 * XS,
        }
        assert_close(found, exact)

    def test_names_that_begin_alike(self):
        """x and x1 are told apart."""
        f = lambda v: v[0] ** 2 * v[1] ** 3
        assert_close(nablax.partials(f, "x x1", "u_x1 u_x")(TX), {"u_x1": 3 * T**2 * XS**2, "u_x": 2 * T * XS**3})
        assert_close(nablax.partials(f, "x x1", "u_x_x1")(TX), {"u_x_x1": 6 * T * XS**2})

    def test_a_single_number(self):
        """One coordinate: x is a number, or a vector of one."""
        exact = {"u_tt": -jnp.sin(T), "u_tttt": jnp.sin(T)}
        assert_close(nablax.partials(jnp.sin, "t", "u_tt u_tttt")(T), exact)
        assert_close(nablax.partials(lambda v: jnp.sin(v[0]), "t", "u_tt u_tttt")(T[:, None]), exact)

    def test_further_arguments_and_axes(self):
        f = lambda p, v, shift: p * (v[0] + shift) ** 3 * v[1]
        shifts = Draw("shifts")(D)
        transform = nablax.partials(f, "t x", "u_t u_tx", in_axes=(None, -1, 0), out_axes=-1)
        first = 3 * 2.0 * (T + shifts) ** 2
        assert_close(transform(2.0, TX.T, shifts), {"u_t": first * XS, "u_tx": first})

    def test_aux(self):
        found, aux = nablax.partials(lambda v: (v[0] * v[1], v[0]), "t x", "u_tx", has_aux=True, chunk_size=3)(TX)
        assert_close(found, {"u_tx": jnp.ones(D)})
        assert_close(aux, T)


@jax.custom_vjp
def _sine(x):
    return jnp.sin(x)


_sine.defvjp(lambda x: (_sine(x), x), lambda x, g: (g * jnp.cos(x),))


def test_custom_vjp_is_served_by_reverse_mode():
    model = lambda k, v: _sine(k * v[0]) * v[1] ** 2
    exact = {"u_t": 2 * jnp.cos(2 * T) * XS**2, "u_tx": 4 * jnp.cos(2 * T) * XS, "u_xx": 2 * jnp.sin(2 * T)}
    assert_close(nablax.partials(model, "t x", "u_t u_tx u_xx")(2.0, TX), exact)
    with pytest.raises(nablax.errors.StrategyError, match="custom_vjp"):
        nablax.partials(model, "t x", "u_xx", strategy="forward_over_forward")(2.0, TX)


def test_while_loop_is_served_by_forward_mode():
    power = lambda v: jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * v[1]), (0, v[0]))[1]
    assert_close(nablax.partials(power, "t x", "u_xx u_txx")(TX), {"u_xx": 6 * T * XS, "u_txx": 6 * XS})


def test_network_against_nested_jax():
    p = {"W": draw(5, 2), "out": draw(3, 5)}
    net = lambda p, v: p["out"] @ jnp.tanh(p["W"] @ v)
    found = nablax.partials(net, "t x", "u u_x u_tx u_xxx")(p, TX)
    third = jax.jacfwd(jax.hessian(net, argnums=1), argnums=1)
    assert_close(found["u_xxx"], jax.vmap(third, (None, 0))(p, TX)[:, :, 1, 1, 1], 1e-9)
    assert_close(found["u_tx"], jax.jit(jax.vmap(jax.hessian(net, argnums=1), (None, 0)))(p, TX)[:, :, 0, 1])


def test_jit_and_float32(float32):
    v = np.asarray(TX, np.float32)
    found = jax.jit(nablax.partials(lambda v: jnp.sin(v[0]) * v[1] ** 2, "t x", "u_ttx", chunk_size=2))(v)["u_ttx"]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, -2 * np.sin(v[:, 0]) * v[:, 1], rtol=1e-5, atol=1e-6)
