"""How the functions of jax.lax, jax.lax.linalg, jax.ops and jax.image are called; notation as in `calls_numpy`."""

from conformance.calls_numpy import CONSTRUCTOR, TEXT, each

RANDOM = "<random numbers>"
DEVICES = "<needs several devices>"
INDEXED = "lax.ScatterDimensionNumbers((), (0,), (0,))"
SCATTER = f"f(v, at, w[:2], {INDEXED})"
REDUCE = "f(v, (0,))"
WINDOW = "(2,), (1,), 'VALID'"


def mapped(body: str) -> str:
    """A collective over an axis that exists inside the model."""
    return f"jax.vmap(lambda t: {body}, axis_name='k')(v)"


LAX = {
    **each(
        "DotDimensionNumbers PrecisionLike conv_dimension_numbers conv_general_permutations conv_general_shape_tuple "
        "conv_shape_tuple conv_transpose_shape_tuple broadcast_shapes dtype padtype_to_pads reduce_window_shape_tuple "
        "shape_as_value",
        TEXT,
    ),
    **each("broadcasted_iota empty iota", CONSTRUCTOR),
    **each("rng_bit_generator rng_uniform", RANDOM),
    **each("pbroadcast pcast precv psend ragged_all_to_all", DEVICES),
    **each("after_all create_token dce_sink stage", "<about the order of execution>"),
    "abs": ("f(v)", "f(c)"),
    "all_gather": mapped("f(t * t, 'k')"),
    "all_to_all": "jax.vmap(lambda t: f(t * t, 'k', 0, 0), axis_name='k')(a)",
    "approx_max_k": "f(v, 2)",
    "approx_min_k": "f(v, 2)",
    "argmax": "f(v, 0, jnp.int32)",
    "argmin": "f(v, 0, jnp.int32)",
    "associative_scan": "f(jnp.multiply, v)",
    "axis_index": mapped("f('k') * t"),
    "axis_size": mapped("f('k') * t"),
    "batch_matmul": "f(T, U.swapaxes(1, 2))",
    "betainc": ("f(p, q, u)", "f(jnp.full(4, 2.0), jnp.full(4, 3.0), u)"),
    "bitcast_convert_type": "f(v, jnp.int64)",
    "bitwise_not": "f(i)",
    "broadcast": "f(v, (2,))",
    "broadcast_in_dim": "f(v, (4, 2), (0,))",
    "broadcast_like": "f(v, w)",
    "broadcast_to_rank": "f(v, 2)",
    "clamp": ("f(-0.5, v, 0.5)", "f(w - 0.5, v, w + 0.5)"),
    "collapse": "f(T, 0, 2)",
    "composite": "f(lambda t: jnp.sin(t) * t, name='nablax.test')(v)",
    "concatenate": "f([v, w], 0)",
    "cond": ("f(v[0] > 0, jnp.sin, jnp.cos, v)", "f(b[0], lambda t: t * jnp.exp(t), jnp.cos, v)"),
    "conj": "f(c)",
    "conv": "f(T, U[:, :, :2], (1,), 'SAME')",
    "conv_general_dilated": "f(T, U[:, :, :2], (2,), [(1, 0)], lhs_dilation=(2,))",
    "conv_general_dilated_local": "f(T, U.reshape(1, 6, 4)[:, :, :3], (1,), 'VALID', (2,))",
    "conv_general_dilated_patches": "f(T * T, (2,), (1,), 'VALID')",
    "conv_transpose": "f(T, U.reshape(2, 4, 3), (1,), 'SAME')",
    "conv_with_general_padding": "f(T, U[:, :, :2], (1,), [(0, 0)], None, None)",
    "convert_element_type": "f(v, complex)",
    "custom_linear_solve": (
        "f((lambda h: lambda t: h @ t)(h), v[:3], lambda M, b: jnp.linalg.solve(jax.jacfwd(M)(b), b), symmetric=True)"
    ),
    "custom_root": (
        "f((lambda v: lambda t: t**3 + t - v)(v), jnp.zeros(4), lambda g, t: lax.fori_loop(0, 30, lambda _, t: "
        "t - g(t) / jax.jvp(g, (t,), (jnp.ones(4),))[1], t), lambda g, y: y / g(jnp.ones(4)))"
    ),
    "dot": ("f(m, n)", "f(v, w)"),
    "dot_general": "f(T, U, (((1,), (1,)), ((0,), (0,))))",
    "dynamic_index_in_dim": "f(v, 1)",
    "dynamic_slice": "f(v, (1,), (2,))",
    "dynamic_slice_in_dim": "f(v, 1, 2)",
    "dynamic_update_index_in_dim": "f(v, w[:1], 1, 0)",
    "dynamic_update_slice": "f(v, w[:2], (1,))",
    "dynamic_update_slice_in_dim": "f(v, w[:2], 1, 0)",
    "erf_inv": "f(2 * u - 1)",
    "expand_dims": "f(v, (0,))",
    "fft": "f(c, lax.FftType.FFT, (4,))",
    "fori_loop": ("f(0, 3, lambda k, t: jnp.sin(t) * (1 + t), v)", "f(0, i[0], lambda k, t: jnp.sin(t) * t, v)"),
    "full": "f((3,), s)",
    "full_like": "f(v, s)",
    "gather": "f(v, at, lax.GatherDimensionNumbers((), (0,), (0,)), (1,))",
    "igamma": ("f(p, q)", "f(jnp.full(4, 2.0), q)"),
    "igamma_grad_a": "f(p, q)",
    "igammac": ("f(p, q)", "f(jnp.full(4, 2.0), q)"),
    "imag": "f(c)",
    "index_in_dim": "f(v, 1)",
    "index_take": "f(m, (rows,), (1,))",
    "integer_pow": ("f(v, 3)", "f(p, -2)"),
    "map": "f(lambda t: t * jnp.sin(t), v)",
    "pad": ("f(v, s, [(1, 2, 1)])", "f(v, s, [(-1, 1, 0)])"),
    "platform_dependent": "f(v, cpu=jnp.sin, default=jnp.cos)",
    "pmax": mapped("f(t * t, 'k')"),
    "pmean": mapped("f(t * t, 'k') * t"),
    "pmin": mapped("f(t * t, 'k')"),
    "polygamma": "f(jnp.ones(4), p)",
    "pow": ("f(p, w)", "f(v, 3)"),
    "ppermute": mapped("f(t * t, 'k', [(0, 1), (1, 2), (2, 3), (3, 0)])"),
    "pshuffle": mapped("f(t * t, 'k', [1, 2, 3, 0])"),
    "psum": mapped("f(t * t, 'k') * t"),
    "psum_scatter": "jax.vmap(lambda t: f(t * t, 'k'), axis_name='k')(a)",
    "pswapaxes": "jax.vmap(lambda t: f(t * t, 'k', 0), axis_name='k')(a)",
    "ragged_dot": "f(n, T[:, :2, :], np.array([1, 2], np.int32))",
    "ragged_dot_general": (
        "f(n, T[:, :2, :], np.array([1, 2], np.int32), "
        "lax.RaggedDotDimensionNumbers((((1,), (1,)), ((), ())), [0], [0]))"
    ),
    "random_gamma_grad": "f(p, q)",
    "reduce": ("f(v, 0.0, lax.add, (0,))", "f(v, 1.0, lambda s, t: s * t, (0,))"),
    "reduce_and": "f(b, (0,))",
    "reduce_max": REDUCE,
    "reduce_min": REDUCE,
    "reduce_or": "f(b, (0,))",
    "reduce_precision": "f(v, 11, 52)",
    "reduce_prod": REDUCE,
    "reduce_sum": REDUCE,
    "reduce_window": (
        f"f(v, 0.0, lax.add, {WINDOW})",
        f"f(v, -jnp.inf, lax.max, {WINDOW})",
        f"f(v, 1.0, lambda s, t: s * t, {WINDOW})",
    ),
    "reduce_xor": "f(i, (0,))",
    "real": "f(c)",
    "rem": "f(v, p)",
    "reshape": "f(m, (3, 2))",
    "rev": "f(v, (0,))",
    "scaled_dot": "<a product in 8 bits; needs a GPU>",
    "scan": "f(lambda h, t: (jnp.tanh(h + t), h * t), s, v)",
    "scatter": SCATTER,
    "scatter_add": SCATTER,
    "scatter_apply": f"f(v, at, jnp.sin, {INDEXED}, update_shape=(2,))",
    "scatter_max": SCATTER,
    "scatter_min": SCATTER,
    "scatter_mul": f"f(v, at, w[:2], {INDEXED}, unique_indices=True)",
    "scatter_sub": SCATTER,
    "select": "f(b, v, w)",
    "select_n": "f(b, v, w)",
    "slice": "f(v, (1,), (3,))",
    "slice_in_dim": "f(v, 1, 3)",
    "sort": ("f(v)", "f((v, w), num_keys=1)"),
    "sort_key_val": "f(v, w)",
    "split": "f(v, (1, 3))",
    "squeeze": "f(v[None], (0,))",
    "stack": "f([v, w])",
    "switch": "f((v[0] > 0).astype(int), [jnp.sin, jnp.cos], v)",
    "tile": "f(v, (2,))",
    "top_k": "f(v, 2)",
    "transpose": "f(m, (1, 0))",
    "unstack": "f(m)",
    "while_loop": "f(lambda t: jnp.sum(t**2) > 0.1, lambda t: t * jnp.cos(t) / 2, v)",
    "with_sharding_constraint": "f(v, jax.sharding.SingleDeviceSharding(jax.devices()[0]))",
    "zeta": ("f(1 + g, p)", "f(jnp.full(4, 3.0), p)"),
}

LAX_LINALG = {
    "cholesky": ("f(h)", "f(ch)"),
    "cholesky_update": "f(l.T, v[:3])",
    "eig": "f(a)",
    "eigh": ("f(h)", "f(ch)"),
    "hessenberg": "f(a)",
    "householder_product": "f(n, u[:2])",
    "lu": ("f(a)", "f(ca)"),
    "lu_pivots_to_permutation": "f(np.array([0, 1, 2], np.int32), 3)",
    "ormqr": "f(a, u[:3], d)",
    "qdwh": "f(a)",
    "qr": "f(n, full_matrices=False)",
    "schur": "f(a)",
    "svd": ("f(n, full_matrices=False)", "f(a)"),
    "symmetric_product": "f(a, d)",
    "triangular_solve": "f(l, n, left_side=True, lower=True)",
    "tridiagonal": "f(h)",
    "tridiagonal_solve": "f(w * (np.arange(4) > 0), 3 + p, y * (np.arange(4) < 3), v[:, None])",
}

SEGMENTS = "f(v, np.array([0, 0, 1, 1]), num_segments=2)"

OPS = dict.fromkeys(("segment_max", "segment_min", "segment_prod", "segment_sum"), SEGMENTS)

IMAGE = {
    "resize": ("f(a, (5, 5), 'cubic')", "f(a, (2, 2), 'nearest')"),
    "scale_and_translate": "f(a, (4, 4), (0, 1), p[:2], 0.3 * v[:2], 'linear')",
}

CALLS = {"jax.lax": LAX, "jax.lax.linalg": LAX_LINALG, "jax.ops": OPS, "jax.image": IMAGE}
