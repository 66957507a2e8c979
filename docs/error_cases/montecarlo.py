"""Expectations, local energies, samples."""

from error_cases import Case

DENSITY = "log_p = lambda params, x: -0.5 * jnp.sum(x**2)\n"

CASES = [
    Case(
        f"{DENSITY}nablax.montecarlo.expectation(log_p, lambda params, X: X.sum(1))(None, X[:, 0])",
        "The samples have no axes for chains and steps.",
        "Independent samples are chains of one step: X[:, None].",
    ),
    Case(
        f"{DENSITY}nablax.montecarlo.expectation(log_p, lambda params, x: jnp.sum(x))(None, X[:, None])",
        "f was written for one sample.",
        "Give jax.vmap(f, (None, 0)), or a transform of nablax.",
    ),
    Case(
        "log_psi = lambda params, x: 1j * jnp.sum(x**2)\n"
        "nablax.montecarlo.expectation(log_psi, lambda params, X: X.sum(1))(None, X[:, None])",
        "The logarithm of a wavefunction was given where that of its density belongs.",
        "Give 2 * log_psi(params, x).real.",
    ),
    Case(
        f"{DENSITY}f = lambda params, X: X.sum(1)\n"
        "nablax.montecarlo.expectation(log_p, f)(None, X[:, None], log_weights=jnp.ones(8))",
        "The log weights have another shape than the samples.",
        "Give one for each chain and step.",
    ),
    Case(
        "nablax.montecarlo.local_energy(model, jnp.sum)(M, X)",
        "The wavefunction has several outputs.",
        "Return one number, log psi; sum or select in the model.",
    ),
    Case(
        f"{DENSITY}nablax.montecarlo.local_energy(log_p, lambda x: x)(None, X)",
        "The potential is no number.",
        "Return V(x) of one configuration.",
    ),
    Case(
        f"{DENSITY}nablax.montecarlo.local_energy(log_p, jnp.sum, vector_potential=jnp.sum)(None, X)",
        "The vector potential is not a vector like x.",
        "Return one component for each coordinate.",
    ),
    Case(
        f"{DENSITY}nablax.montecarlo.local_energy(log_p, jnp.sum, mass=jnp.ones(3))(None, X)",
        "There are not as many masses as coordinates.",
        "Give a number, or an array that can be broadcast to x.",
    ),
    Case(
        f"{DENSITY}nablax.montecarlo.local_energy(log_p, jnp.sum)(None, [X])",
        "The configurations are a list.",
        "Join them in one array (D, ..).",
    ),
    Case(
        f'{DENSITY}nablax.montecarlo.sample(log_p, steps=10, burn_in=10, method="nuts")',
        "There is no such sampler here.",
        "Use a name from the message; blackjax has more, for direct use.",
    ),
    Case(
        f"{DENSITY}nablax.montecarlo.sample(log_p, steps=0, burn_in=10)",
        "A count is not a positive int.",
        "Give an int in the range of the message.",
    ),
    Case(
        f"{DENSITY}nablax.montecarlo.sample(log_p, steps=10, burn_in=10, target_acceptance=35)",
        "The target is no rate.",
        "Give a number between 0 and 1.",
    ),
    Case(
        "nablax.montecarlo.sample(model, steps=10, burn_in=10)(M, jax.random.key(0), X)",
        "The log density is no real number.",
        "Return one; for a wavefunction 2 * log_psi.real.",
    ),
    Case(
        f"{DENSITY}nablax.montecarlo.sample(log_p, steps=10, burn_in=10)(None, jax.random.key(0), jnp.ones(()))",
        "The starting points have no axis for the chains.",
        "Give an array (chains, ..).",
    ),
    Case(
        f"{DENSITY}nablax.montecarlo.stochastic_reconfiguration(log_p, damping=1e-3)(M, X, 1.0)",
        "There is not one local energy for each sample.",
        "Give what local_energy returns for the same X.",
    ),
]
