"""Models of a whole batch whose samples depend on each other, or may do so as far as nablax can tell."""

from error_cases import Case

CASES = [
    Case(
        "f = nablax.per_sample(lambda M, X: X @ M.T - (X @ M.T).mean(0))\nnablax.hessian(f)(M, X)",
        "A mean over the batch couples all samples, as BatchNorm does in training mode.",
        "Compute the statistics beforehand and pass them as an argument; use BatchNorm in inference mode.",
    ),
    Case(
        "f = nablax.per_sample(lambda M, X: X @ M.T / len(X))\nnablax.hessian(f)(M, X)",
        "The number of samples enters the result.",
        "Divide by a constant, or divide the result.",
    ),
    Case(
        "f = nablax.per_sample(lambda M, X: X * jax.random.normal(jax.random.key(0), X.shape))\n"
        "nablax.hessian(f)(M, X)",
        "The noise of a sample depends on its place in the batch.",
        "Pass a batch of random keys as a further argument, and draw for each sample with its own.",
    ),
    Case(
        "f = nablax.per_sample(lambda M, X: jax.pure_callback(np.sin, X, X))\nnablax.hessian(f)(M, X)",
        "There is no rule for the operation; its samples may be independent.",
        "Write it with other operations; or, if you know that samples are independent, pass assume_independent=True.",
    ),
    Case(
        "f = nablax.per_sample(lambda M, X: jnp.stack([M @ X[d] for d in range(len(X))]))\nnablax.hessian(f)(M, X)",
        "The program is another one for each number of samples: a Python loop over them, or a branch on len(X).",
        "Use jax.vmap or jax.lax.map in place of the Python loop.",
    ),
    Case(
        "f = nablax.per_sample(lambda M, X: X - X.mean(0), assume_independent=True)\nnablax.hessian(f)(M, X)",
        "Samples were said to be independent, and are not.",
        "Leave assume_independent out: the message then says what couples them.",
    ),
    Case(
        "f = nablax.per_sample(lambda M, X: M @ X)\nnablax.hessian(f)(M, X)",
        "The model does not accept a batch, with its samples where in_axes says.",
        "Compare the shapes in the message with what the model expects; name the sample axes with in_axes.",
    ),
    Case(
        "f = nablax.per_sample(lambda M, X: M @ X.T)\nnablax.hessian(f)(M, X)",
        "The samples are on another axis of the output than out_axes says.",
        "Name their axis with out_axes; here, out_axes=1.",
    ),
    Case(
        "f = nablax.per_sample(lambda M, X: (X @ M.T).sum(1), out_axes=1)\nnablax.hessian(f)(M, X)",
        "The output has fewer axes than out_axes says.",
        "Name an axis that the output of the batch has.",
    ),
    Case(
        "f = nablax.per_sample(lambda M, X: X @ M.T, out_axes={'y': 0})\nnablax.hessian(f)(M, X)",
        "A tree in out_axes does not fit the tree of the output.",
        "Write out_axes as a prefix of the output, with the same keys and lengths.",
    ),
]
