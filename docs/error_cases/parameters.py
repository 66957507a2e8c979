"""Derivatives by the parameters: operators, their methods, natural gradients."""

from error_cases import Case

O = "O = nablax.parameter_jacobian(model)(M, X)"

CASES = [
    Case(
        "nablax.parameter_jacobian(model)(M.astype(int), X)",
        "The parameters are integers.",
        "Convert them to floating point; hand what is no parameter to the model in another argument.",
    ),
    Case(
        "nablax.parameter_jacobian(lambda p, x: x)((), X)",
        "The argument that should hold the parameters is empty.",
        "Name the right argument with wrt.",
    ),
    Case(
        "nablax.parameter_jacobian(model, in_axes=(0, 0))(jnp.ones((8, 2, 4)), X)",
        "The parameters were given a sample axis.",
        "All samples share the parameters; per-sample ones are inputs, for nablax.jacobian.",
    ),
    Case(
        'nablax.parameter_jacobian(model, mode="imaginary")(M, X)',
        "There is no mode of that name.",
        'Leave mode at "auto", or use a name from the message.',
    ),
    Case(
        'nablax.parameter_jacobian(model, mode="real")(M + 1j, X)',
        "Something is complex, and the mode is for real numbers.",
        'Leave mode at "auto": derivatives by real and imaginary parts.',
    ),
    Case(
        'nablax.parameter_jacobian(model, mode="holomorphic")(M, X)',
        "Parameters or outputs are real.",
        'Use mode="complex", or leave it at "auto".',
    ),
    Case(
        'nablax.parameter_jacobian(lambda M, x: jnp.conj(M @ x), mode="holomorphic")(M + 1j, X)',
        "The model is not holomorphic: its complex derivative does not exist.",
        'Use mode="complex".',
    ),
    Case(
        "conjugate = lambda M, x: jnp.conj(M @ x)\n"
        'jax.jit(lambda M: nablax.parameter_jacobian(conjugate, mode="holomorphic")(M, X).gram())(M + 1j)',
        "Nothing proves that the model is holomorphic, and inside jax.jit there are no values to test it with.",
        "Make the operator outside of jax.jit and pass it in: it is a pytree.",
    ),
    Case(
        "nablax.parameter_jacobian(unserved)(M, X).gram()",
        "The parameters go through a while_loop, which has no reverse mode.",
        "Write the loop with jax.lax.scan.",
    ),
    Case(
        'nablax.parameter_jacobian(model, memory_budget="256B")(M, X).dense()',
        "The array of all derivatives does not fit the budget, or without one the device.",
        "Use the methods that never form it, or take it in pieces with rows(slice).",
    ),
    Case(
        f"{O}; O @ jnp.ones(3)",
        "v is not like the parameters.",
        "Give a tree like the parameters, or a vector with an entry for each.",
    ),
    Case(
        f"{O}; O.T @ jnp.ones((8, 3))",
        "w is not like the outputs.",
        "Give one number for each output of each sample.",
    ),
    Case(
        f"{O}; O.T @ jnp.ones((8, 2), complex)",
        "w is complex where the outputs are real.",
        "Treat its real and imaginary parts one by one.",
    ),
    Case(
        f"{O}; O.gram(3.0)",
        "The partner is no operator.",
        "Give nablax.parameter_jacobian(model)(params, other_X), or nothing for the samples themselves.",
    ),
    Case(
        f"{O}; O.gram(nablax.parameter_jacobian(model)(M[:1], X))",
        "The two operators have other parameters.",
        "Make both with the same parameters and mode.",
    ),
    Case(
        f"{O}; O.weighted(jnp.ones(3))",
        "The weights fit neither the samples nor the rows.",
        "Give one for each sample, or one for each output of each sample.",
    ),
    Case(
        f"{O}; O.weighted(jnp.ones(8, complex))",
        "The weights are complex.",
        "Weights of rows are real.",
    ),
    Case(
        f"{O}; O.weighted(jnp.ones(8)).centred()",
        "The mean of weighted rows is asked for.",
        "Centre first, with centred(weights) for a weighted mean, and weight the result.",
    ),
    Case(
        f"{O}; O.centred(jnp.ones((8, 2)))",
        "The weights of the mean are not one for each sample.",
        "Give D numbers; they are divided by their sum.",
    ),
    Case(
        f"{O}; O.rows(0)",
        "A single number is no slice.",
        "Write O.rows(slice(0, 1)).",
    ),
    Case(
        f"{O}; O.rows(slice(8, 9))",
        "No sample is left.",
        "Name at least one of the samples.",
    ),
    Case(
        f"{O}; O.centred().rows(slice(0, 4))",
        "Part of the samples has another mean.",
        "Take the rows first, then centre; or cut the results.",
    ),
    Case(
        f'{O}; O.as_lineax("hessian")',
        "There is no such operator.",
        "Use a name from the message.",
    ),
    Case(
        f"{O}; O.clipped_mean(1.0)",
        "There is more than one output, so more than one gradient for each sample.",
        "Use nablax.per_sample_gradients with a scalar loss.",
    ),
    Case(
        "nablax.parameter_jacobian(lambda M, x: jnp.sum(M @ x))(M, X).centred().clipped_mean(1.0)",
        "Centred gradients are to be clipped.",
        "Clip the gradients themselves.",
    ),
    Case(
        "nablax.per_sample_gradients(lambda M, x: jnp.sum(M @ x) * 1j)(M, X).clipped_mean(1.0)",
        "The loss is complex.",
        "Return a real number, for example its real part.",
    ),
    Case(
        "nablax.per_sample_gradients(model)(M, X)",
        "The loss of a sample is not one number.",
        "Sum it; or use nablax.parameter_jacobian.",
    ),
    Case(
        f'{O}; nablax.natural_gradient(O, jnp.ones((8, 2)), damping=1e-3, method="newton")',
        "There is no method of that name.",
        'Leave method at "auto", or use a name from the message.',
    ),
    Case(
        "nablax.natural_gradient([M], [X], damping=1e-3)",
        "What should be an operator is none.",
        "Pass what nablax.parameter_jacobian(model)(params, X) returns.",
    ),
    Case(
        f"{O}; nablax.natural_gradient([O, O], [jnp.ones((8, 2))], damping=1e-3)",
        "There are more operators than residuals, or fewer.",
        "Give one residual for each operator.",
    ),
    Case(
        f"{O}; nablax.natural_gradient(O, jnp.ones(8), damping=1e-3)",
        "The residual is not like the outputs.",
        "Give one number for each output of each sample.",
    ),
    Case(
        f"{O}; nablax.natural_gradient(O, jnp.ones((8, 2)), damping=0.0)",
        "Without damping the linear system need not have a solution.",
        "Give a small positive number.",
    ),
]
