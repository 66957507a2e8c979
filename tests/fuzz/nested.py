"""The reference: nested automatic differentiation of one sample by JAX alone. A printed script holds all of it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def nested(f, x, forward, reverse, order=2):
    """f(x), and arrays (A, C), (A, C, C) of its derivatives by the entries of the tree x, up to `order`."""
    v, unravel = ravel_pytree(x)

    def parts(v):
        y = ravel_pytree(f(unravel(v)))[0]
        return jnp.stack([y.real, y.imag]) if jnp.iscomplexobj(y) else y[None]

    functions = [parts]
    for inner in (True, False)[:order]:
        mode = (jax.jacrev if reverse else jax.jacfwd) if inner else (jax.jacfwd if forward else jax.jacrev)
        functions.append(mode(functions[-1]))
    found = [function(v) for function in functions[1:]]
    return f(x), [a[0] + 1j * a[1] if len(a) == 2 else a[0] for a in found]


def cut(array, axis, tree):
    """An axis of an array as the leaves of a tree."""
    leaves, treedef = jax.tree.flatten(tree)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    shapes = [array.shape[:axis] + leaf.shape + array.shape[axis + 1 :] for leaf in leaves]
    return treedef.unflatten([a.reshape(s) for a, s in zip(jnp.split(array, ends, axis), shapes, strict=True)])


def as_trees(array, y, x, inputs):
    """(A, C, ..) as a tree like y of trees like x, with the dtypes of y."""

    def within(leaf, axis, inputs):
        if inputs == 0:
            return leaf
        pieces = cut(leaf, axis, x)
        return jax.tree.map(lambda piece, part: within(piece, axis + part.ndim, inputs - 1), pieces, x)

    def one(leaf, part):
        leaf = leaf if jnp.iscomplexobj(part) else leaf.real
        return within(leaf.astype(part.dtype), part.ndim, inputs)

    return jax.tree.map(one, cut(array, 0, y), y)


def presented(want, y, derivatives, x, weights):
    """One want of one sample, by its name in nablax, from what `nested` returns."""
    J, H = derivatives[0], derivatives[-1]
    if want == "value":
        return y
    if want == "divergence":
        return jnp.trace(J).astype(jax.tree.leaves(y)[0].dtype)
    if want == "jacobian":
        return as_trees(J, y, x, 1)
    if want == "hessian":
        return as_trees(H, y, x, 2)
    if want == "hessian_diagonal":
        return as_trees(jnp.diagonal(H, axis1=1, axis2=2), y, x, 1)
    W = jnp.asarray(1.0 if weights is None else weights)
    W = W if W.ndim == 2 else jnp.diag(jnp.broadcast_to(W, H.shape[1:2]))
    return as_trees(jnp.einsum("ace,ce->a", H, W.astype(H.real.dtype)), y, x, 0)


def partial(f, x, name, forward):
    """u_xy: the derivatives by x, then y."""
    for letter in name.partition("_")[2]:
        c = "xyz".index(letter)
        if forward:
            f = lambda x, f=f, c=c: jax.jvp(f, (x,), (jnp.zeros_like(x).at[c].set(1),))[1]
        else:
            f = lambda x, f=f, c=c: jax.tree.map(lambda d: d[..., c], jax.jacrev(f)(x))
    return f(x)


def by_parameters(f, p, forward):
    """(A, B): the derivatives of one sample by all entries of the parameters."""
    theta, unravel = ravel_pytree(p)
    return (jax.jacfwd if forward else jax.jacrev)(lambda theta: ravel_pytree(f(unravel(theta)))[0])(theta)
