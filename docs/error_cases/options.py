"""Options that cannot be, and strategies that cannot serve."""

from error_cases import Case

CASES = [
    Case(
        "nablax.jacobian(M)(X)",
        "The model is not a function.",
        "Pass the function itself: model, not model(params, x), nor its parameters.",
    ),
    Case(
        'nablax.hessian(model, strategy="fastest")(M, X)',
        "There is no strategy of that name.",
        'Leave strategy at "auto", or use a name from the message.',
    ),
    Case(
        "nablax.hessian(model, chunk_size=0)(M, X)",
        "A chunk holds at least one sample.",
        'Leave chunk_size at "auto", give a positive int, or None for the whole batch at once.',
    ),
    Case(
        'nablax.hessian(model, wrt="x")(M, X)',
        "Arguments are counted, not named.",
        "Count the arguments of the model from 0; X is number 1 in model(params, X).",
    ),
    Case(
        "nablax.hessian(model, wrt=2)(M, X)",
        "The model was called with fewer arguments than that.",
        "Use the number of an argument that is passed.",
    ),
    Case(
        'nablax.hessian(model, in_axes="last")(M, X)',
        "in_axes is of no type that names axes.",
        "Write in_axes as for jax.vmap: an int, or a tuple with one entry for each argument.",
    ),
    Case(
        'nablax.hessian(model, memory_budget="much")(M, X)',
        "The budget is no amount of memory.",
        'Write the number of bytes, or a number with a unit: "512MiB", "1.5GB".',
    ),
    Case(
        'nablax.hessian(model, memory_budget="1KB")(M, X)',
        "The whole result would not fit the budget.",
        "Raise the budget, ask for the diagonal or the trace of the Hessian only, or stream the result to disk.",
    ),
    Case(
        'nablax.laplacian(model, memory_budget="128B", strategy="forward_over_reverse")(M, X)',
        "The strategy that was asked for needs more than the budget, even for one sample at a time.",
        "Use one of the strategies in the message, or raise the budget.",
    ),
    Case(
        'nablax.laplacian(model, memory_budget="32B")(M, X[:1])',
        "No strategy fits the budget, even with one sample at a time.",
        "Raise the budget: it is for the intermediate arrays of one chunk, not for the whole program.",
    ),
    Case(
        'with installed_jaxlib("0.10.2"): nablax.hessian(model, strategy="adjoint")(M, X)',
        "The installed jaxlib drops terms of sums on a CPU.",
        "Install another version of jax and jaxlib.",
    ),
    Case(
        "nablax.hessian(model, table=jnp.tanh)(M, X)",
        "The table is no table of primitives.",
        "Extend the default one: nablax.default_table.extended(elementwise=[my_primitive]).",
    ),
    Case(
        'nablax.explain(model, "hessian", measure=True)(M, jax.ShapeDtypeStruct((8, 4), "float32"))',
        "Shapes were given, and measuring needs numbers.",
        "Give arrays, or leave measure out: the plan needs shapes only.",
    ),
    Case(
        "nablax.derivatives(model)",
        "No derivative was named.",
        'Name the wants behind the model: derivatives(model, "value", "jacobian").',
    ),
    Case(
        'nablax.derivatives(model, "gradient")',
        "A name that is not one of the wants.",
        'Use a name from the message; the gradient of a scalar model is its "jacobian".',
    ),
    Case(
        'nablax.derivatives(model, "jacobian", weights=2.0)',
        "Weights belong to the Laplacian, which was not asked for.",
        'Add "laplacian" to the wants, or remove the weights.',
    ),
    Case(
        "nablax.laplacian(model, weights=jnp.ones(3))(M, X)",
        "The weights do not fit the number of inputs.",
        "Give a number, one weight for each input, or a matrix (C, C).",
    ),
    Case(
        "nablax.laplacian(model, weights=1j)(M, X)",
        "Complex weights.",
        "Take two Laplacians, with the real and the imaginary parts as weights.",
    ),
    Case(
        'nablax.partials(wave, coordinates="t x", of="u_z")(T)',
        "The letters behind the underscore are not coordinates.",
        "Name all coordinates, in the order of the entries of x, and spell derivatives with them.",
    ),
    Case(
        'nablax.partials(wave, coordinates="t x", of="u_xxxxx")(T)',
        "An order above 4.",
        "Take a derivative of a derivative: nablax.partials of a model that returns u_xxxx.",
    ),
    Case(
        'nablax.partials(wave, coordinates="t x", of="u_t v_x")(T)',
        "Two outputs, and no word on which entries of y they are.",
        'Name the entries of the output in their order: outputs="u v".',
    ),
    Case(
        'nablax.partials(wave, coordinates="t x", of="w_t", outputs="u v")(T)',
        "An output that is not among the named ones.",
        "Use one of the names in outputs.",
    ),
    Case(
        'nablax.partials(wave, coordinates="t x", of="u_t v_x", outputs="u v")(T)',
        "The model returns another number of values than were named.",
        "Name every entry of the output, also those that are not wanted.",
    ),
    Case(
        'nablax.partials(wave, coordinates="t x y", of="u_t")(T)',
        "One sample of x has another number of entries than coordinates were named, or another rank.",
        "Name one coordinate for each entry of the vector x.",
    ),
    Case(
        'nablax.partials(wave, coordinates="t, x", of="u_t")(T)',
        "Names with commas or other signs in them.",
        "Separate names by spaces, or give a list.",
    ),
    Case(
        'nablax.partials(wave, coordinates="t x", of="u_t u_t")(T)',
        "A name was given twice.",
        "Name each once; the result is a dict.",
    ),
    Case(
        'nablax.partials(wave, coordinates="t x_1", of="u_t")(T)',
        "A coordinate or output with an underscore could not be told from a derivative.",
        "Use names without underscores: x1.",
    ),
    Case(
        'D, = jax.export.symbolic_shape("D")\n'
        "f = jax.jit(nablax.hessian(model, chunk_size=64))\n"
        'jax.export.export(f)(M, jax.ShapeDtypeStruct((D, 4), "float32"))',
        "A program for any number of samples cannot be cut into chunks of 64.",
        "Leave chunk_size, memory_budget and autotune out, or export for a number of samples that is known.",
    ),
    Case(
        'nablax.check(model, "gradient")(M, X)',
        "A name that is not one of the wants.",
        "Use names from the message.",
    ),
    Case(
        'nablax.check(model, "hessian", samples=0)(M, X)',
        "A check needs a sample.",
        "Give a positive int; more samples than there are means all of them.",
    ),
    Case(
        'nablax.hessian(own_rule, strategy="forward_over_forward")(M, X)',
        "The strategy needs something that the model does not have, here a forward-mode rule.",
        'Leave strategy at "auto", or use one that the message names.',
    ),
    Case(
        "nablax.hessian(unserved)(M, X)",
        "The model has a custom_vjp (no forward mode) as well as a while_loop (no reverse mode).",
        "Replace one of them: a custom_jvp serves both modes, and so does a scan.",
    ),
]
