"""How the functions of jax.scipy are called; see `calls_numpy` for the notation."""

from conformance.calls_numpy import CONSTRUCTOR, each

SPECIAL = {
    "bernoulli": CONSTRUCTOR,
    "bessel_jn": "f(p, v=3)",
    "beta": "f(p, q)",
    "betainc": ("f(p, q, u)", "f(2.0, 3.0, u)"),
    "betaln": "f(p, q)",
    "digamma": "f(p)",
    "entr": "f(p)",
    "erfinv": "f(2 * u - 1)",
    "exp1": "f(p)",
    "expn": "f(2, p)",
    "factorial": "f(p)",
    "gamma": ("f(p)", "f(v)"),
    "gammainc": ("f(p, q)", "f(2.0, q)"),
    "gammaincc": ("f(p, q)", "f(2.0, q)"),
    "gammaln": ("f(p)", "f(v)"),
    "hyp1f1": "f(p, q, v)",
    "hyp2f1": "f(p, q, g, 0.5 * u)",
    "kl_div": "f(p, q)",
    "loggamma": "f(p)",
    "logit": "f(u)",
    "logsumexp": ("f(v)", "f(v, b=w, return_sign=True)"),
    "multigammaln": "f(g + 1, 2)",
    "ndtri": "f(u)",
    "owens_t": "f(v, w)",
    "poch": "f(p, q)",
    "polygamma": "f(2, p)",
    "rel_entr": "f(p, q)",
    "spence": "f(p)",
    "sph_harm_y": "f(np.array([2]), np.array([1]), p[:1], v[:1], n_max=2)",
    "xlog1py": "f(v, p)",
    "xlogy": "f(v, p)",
    "zeta": ("f(1 + g, p)", "f(3.0, p)"),
}

LINALG = {
    **each("dft hadamard helmert hilbert invhilbert pascal", CONSTRUCTOR),
    "block_diag": "f(a, m)",
    "cho_factor": "f(h)",
    "cho_solve": "f((l, True), v[:3])",
    "cholesky": ("f(h)", "f(ch)"),
    "companion": "f(p)",
    "eigh": ("f(h)", "f(ch)", "jnp.abs(f(ch)[1])"),
    "eigh_tridiagonal": "f(v, w[:3], eigvals_only=True)",
    "expm_frechet": "f(a[:2, :2], d[:2, :2])",
    "funm": "f(a, jnp.sin)",
    "leslie": "f(v, w[:3])",
    "lu_solve": "f(jax.scipy.linalg.lu_factor(a), v[:3])",
    "qr": "f(n, mode='economic')",
    "qr_multiply": "f(a, v[:3])",
    "rsf2csf": "f(jnp.triu(a), d)",
    "solve": ("f(a, v[:3])", "f(h, v[:3], assume_a='pos')"),
    "solve_sylvester": "f(a, h, d)",
    "solve_triangular": "f(l, v[:3], lower=True)",
    "sqrtm": "f(h)",
    "svd": ("f(n, full_matrices=False)", "f(a)"),
}

SIGNAL = {
    "convolve2d": "f(m, a)",
    "correlate2d": "f(m, a)",
    "csd": "f(T.ravel(), U.ravel(), nperseg=8)",
    "istft": "f(ca, nperseg=4)",
    "stft": "f(T.ravel(), nperseg=8)",
    "welch": "f(T.ravel(), nperseg=8)",
}

# name of the distribution -> (calls of what takes x, calls of what takes a probability)
DISTRIBUTIONS = {
    "bernoulli": ("f(np.array([0, 1, 1, 0]), u)", "f(u, 1 - u)"),
    "beta": ("f(u, p, q)", ""),
    "betabinom": ("f(i, 5, p, q)", ""),
    "binom": ("f(i, 5, u)", ""),
    "cauchy": ("f(v, w, p)", "f(u, w, p)"),
    "chi2": ("f(p, q)", ""),
    "dirichlet": ("f(u / u.sum(), p)", ""),
    "expon": ("f(p, -q, g)", "f(u, w, p)"),
    "gamma": ("f(p, q, -0.1, g)", ""),
    "gennorm": ("f(v, p)", ""),
    "geom": ("f(i + 1, u)", ""),
    "gumbel_l": ("f(v, w, p)", "f(u, w, p)"),
    "gumbel_r": ("f(v, w, p)", "f(u, w, p)"),
    "laplace": ("f(v, w, p)", ""),
    "logistic": ("f(v, w, p)", "f(u, w, p)"),
    "multinomial": ("f(i, 6, u / u.sum())", ""),
    "multivariate_normal": ("f(v[:3], w[:3], h)", ""),
    "nbinom": ("f(i, p, u)", ""),
    "norm": ("f(v, w, p)", "f(u, w, p)"),
    "pareto": ("f(g, p)", "f(u, p)"),
    "poisson": ("f(i, p)", ""),
    "t": ("f(v, p)", ""),
    "truncnorm": ("f(0.2 * v, -p, q)", ""),
    "uniform": ("f(u, -p, 1 + p + q)", "f(u, w, p)"),
    "vonmises": ("f(v, p)", ""),
    "wrapcauchy": ("f(p, u)", ""),
}


def _distribution(of_x: str, of_probability: str) -> dict[str, str]:
    return each("pdf logpdf pmf logpmf cdf logcdf sf logsf", of_x) | each("ppf isf", of_probability)


CALLS = {
    "jax.scipy.special": SPECIAL,
    "jax.scipy.linalg": LINALG,
    "jax.scipy.signal": SIGNAL,
    "jax.scipy.ndimage": {"map_coordinates": "f(a, [2 * u, 1 + u], order=1)"},
    "jax.scipy.cluster.vq": {"vq": "f(n, n[:2] + 1)"},
    "jax.scipy.optimize": {
        "minimize": "f(lambda t, v: jnp.sum(jnp.cosh(t - v)), jnp.zeros(4), (v,), method='BFGS', tol=1e-6).x"
    },
    "jax.scipy.sparse.linalg": {"bicgstab": "f(h, v[:3])", "cg": "f(h, v[:3])", "gmres": "f(h, v[:3])"},
    **{f"jax.scipy.stats.{name}": _distribution(*calls) for name, calls in DISTRIBUTIONS.items()},
}
CALLS["jax.scipy.stats.poisson"]["entropy"] = "f(p)"
