"""The functions that programs may call; a printed script holds the source of those that it uses."""

import jax
import jax.numpy as jnp


def vec(a, n):
    """Any array as a vector of n entries."""
    a = jnp.ravel(a)
    return a if a.size == n else jnp.resize(a, (n,))


def like(b, a):
    """Any array in the shape of another."""
    return b if jnp.shape(b) == jnp.shape(a) else jnp.resize(b, jnp.shape(a))


def spread(a):
    """No two entries alike: at ties, rounding decides which derivative one gets."""
    return a + 0.7 * jnp.arange(a.size).reshape(a.shape)


def real(a):
    return a.real + 0.5 * a.imag


@jax.custom_jvp
def squashed(a):
    return jnp.sin(a) ** 2


@squashed.defjvp
def squashed_jvp(primals, tangents):
    return squashed(*primals), jnp.sin(2 * primals[0]) * tangents[0]


@jax.custom_jvp
def coupled(a):
    """A rule that is elementwise in shape only."""
    return a * jnp.sum(a)


@coupled.defjvp
def coupled_jvp(primals, tangents):
    (a,), (t,) = primals, tangents
    return coupled(a), t * jnp.sum(a) + a * jnp.sum(t)


@jax.custom_vjp
def pulled(a):
    return jnp.sin(a) * a


def pulled_forward(a):
    return pulled(a), a


def pulled_backward(a, t):
    return (t * (jnp.cos(a) * a + jnp.sin(a)),)


pulled.defvjp(pulled_forward, pulled_backward)


@jax.jit
def silu(a):
    """Not what its name says."""
    return jnp.cos(a) * a


def attention(q, k):
    """Three positions of width two attend to each other."""
    q, k = vec(q, 6).reshape(3, 2), vec(k, 6).reshape(3, 2)
    return jnp.einsum("qk,kd->qd", jax.nn.softmax(jnp.einsum("qd,kd->qk", q, k)), k)


def norm(a, n):
    a = vec(a, n)
    return (a - jnp.mean(a)) / jnp.sqrt(jnp.var(a) + 0.3)


def conv(a, kernel):
    """A convolution over six positions."""
    return jax.lax.conv(vec(a, 6)[None, None], vec(kernel, 2)[None, None].astype(a.dtype), (1,), "SAME")[0, 0]


def spd(a, n):
    """A symmetric positive definite matrix."""
    a = jnp.tanh(vec(a, n))
    return jnp.outer(a, a) + 2 * jnp.eye(n, dtype=a.dtype)


def general(a, n):
    """A matrix that can be inverted."""
    a = jnp.tanh(vec(a, n))
    return 0.5 * jnp.outer(a, a[::-1]) + 2 * jnp.eye(n, dtype=a.dtype)


def recurrent(W, a, h):
    """A recurrent layer of three steps."""
    a = vec(a, h)

    def step(carry, u):
        new = jnp.tanh(W @ carry + u * a).astype(a.dtype)
        return new, new * u

    carry, steps = jax.lax.scan(step, a, jnp.array([0.5, 1.0, 0.25], a.dtype))
    return carry + jnp.sum(steps, 0)


def scanned(a, b, n):
    """A scan over values that depend on x, backwards."""
    step = lambda carry, u: (jnp.sin(carry) * u, carry * carry)
    carry, steps = jax.lax.scan(step, jnp.sum(a) / 3, vec(b, n).astype(a.dtype), reverse=True)
    return steps + carry


def twice(a):
    return jax.lax.fori_loop(0, 2, lambda i, c: jnp.tanh(c) * 1.1 + 0.1 * c * i, a)


def halved(a):
    """A while_loop whose number of steps does not depend on x."""
    return jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.sin(c[1]) * 1.2), (0, a))[1]


def branch(a, b):
    return jax.lax.cond(jnp.sum(a) > 0.1, lambda a, b: jnp.sin(a) * b, lambda a, b: a - b * b, a, like(b, a))


def switched(a, i):
    return jax.lax.switch(i, [jnp.sin, lambda a: a * a, lambda a: jnp.exp(-a * a)], a)
