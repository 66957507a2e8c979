"""`nablax demo`: a network trained on real data, derived sample by sample, and read."""

from __future__ import annotations

import importlib
import time
from pathlib import Path

NEEDED = {"optax": "optax", "sklearn": "scikit-learn", "matplotlib": "matplotlib", "zarr": "zarr", "tqdm": "tqdm"}
WANTS = ["value", "jacobian", "hessian", "hessian_diagonal"]


def main(out: Path) -> None:
    """Runs the demo and writes its model, parameters, inputs, derivatives and picture into the folder out."""
    require_packages()
    import numpy as np

    import nablax.store
    from nablax._demo import forum, network, picture, report, training

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)

    title("1. The example of the forum: samples on the last axis")
    forum.show()

    title("2. A network for the diabetes data: 10 features -> mean and log-variance of the disease progression")
    patients = training.load_patients()
    start = time.perf_counter()
    params = training.train(patients)
    quality = training.quality(patients, params)
    print(f"  trained in {time.perf_counter() - start:.1f} s (compilation included)")
    report.print_quality(quality, patients)

    model, parameters, inputs, store, image = paths(out)
    model.write_text(Path(network.__file__).read_text())
    nablax.store.save_parameters(parameters, params)
    np.save(inputs, patients.X)

    title(f"3. Its derivatives for all {len(patients.y)} patients")
    run = nablax.store.run(
        network.network,
        WANTS,
        patients.X,
        store,
        params=params,
        feature_names=patients.names,
        output_names=training.OUTPUTS,
        overwrite=True,
    )
    print(run)

    d = report.Derivatives.read(store)
    title("4. What drives the prediction?")
    report.print_drivers(d, patients.names)
    title("5. What interacts?")
    report.print_interactions(d, patients.names)
    title("6. Where is it uncertain?")
    report.print_uncertainty(d, patients.names)

    picture.draw(image, d, patients)
    title("Written")
    for path, what in (
        (image, "the picture"),
        (store, "derivatives: xarray.open_zarr, or zarr.open_group"),
        (model, "the network"),
        (parameters, "its parameters"),
        (inputs, "its inputs (442, 10)"),
    ):
        print(f"  {path!s:34s}{what}")
    print("\nThe same derivatives from the command line:\n")
    print(f"  {derive_command(out)}")


def paths(out: Path) -> tuple[Path, Path, Path, Path, Path]:
    """Where the demo writes: model, parameters, inputs, store, picture."""
    return out / "model.py", out / "params.npz", out / "X.npy", out / "diabetes.zarr", out / "diabetes.png"


def derive_command(out: Path) -> str:
    """A command that derives the network that the demo left in the folder out."""
    model, parameters, inputs, _, _ = paths(out)
    return (
        f"nablax derive {model}:network --params {parameters} --inputs {inputs} "
        f"--of jacobian hessian_diagonal --out {out / 'again.zarr'}"
    )


def title(text: str) -> None:
    """Prints a heading."""
    print(f"\n{text}\n", flush=True)


def require_packages() -> None:
    """Says which packages the demo needs and how to get them, before anything is computed."""
    missing = []
    for module, package in NEEDED.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        from nablax.errors import NablaxError

        raise NablaxError(f"the demo needs {', '.join(missing)}: pip install 'nablax[all]'")
