"""What a newcomer sees first: the examples of the README, the demo, the page of errors; run as a newcomer runs them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs python with the given arguments, in a process of its own: with JAX as it is out of the box."""
    return subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=540)


# --- README ---


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_readme_examples_give_the_shapes_they_state():
    code = "\n".join(python_blocks("README.md"))
    stated = re.findall(r"^(\w+) = .*# \((\d[\d, ]*)\)", code, flags=re.MULTILINE)
    assert len(stated) == 8
    checks = "\n".join(f"assert {name}.shape == ({shape}), ({name!r}, {name}.shape)" for name, shape in stated)
    done = run("-c", f"{code}\n{checks}\nassert set(d) == {{'value', 'laplacian'}}\nassert abs(residual).max() < 1e-5")
    assert done.returncode == 0, done.stderr


def test_readme_names_every_public_transform():
    import nablax

    readme = (ROOT / "README.md").read_text()
    transforms = set(nablax.__all__) - {"NablaxError", "__version__", "errors", "derivatives"}
    assert [name for name in transforms if f"`{name}" not in readme and f"nablax.{name}" not in readme] == ["store"]


def test_local_links_of_the_documents_exist():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#\s:]+)\)", page.read_text())]
    assert len(links) >= 5
    assert [link for page, link in links if not (page.parent / link).exists()] == []


# --- docs/errors.md ---


def test_errors_page_is_what_the_errors_say_and_misses_none():
    done = run("docs/make_errors_table.py", "--check")
    assert done.returncode == 0, done.stderr


# --- nablax demo (one group: its tests share one run of it) ---

group = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """(folder, standard output) of `nablax demo`."""
    out = tmp_path_factory.mktemp("demo") / "demo-output"
    done = run("-m", "nablax.cli", "demo", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def load_model(out: Path):
    """The function in the model file that the demo wrote."""
    names: dict = {}
    exec((out / "model.py").read_text(), names)
    return names["network"]


@group
def test_demo_store_holds_the_derivatives_of_the_model_it_wrote(demo):
    import jax
    import xarray

    from nablax.store import load_parameters

    out, _ = demo
    network, params, X = load_model(out), load_parameters(out / "params.npz"), np.load(out / "X.npy")
    assert X.shape == (442, 10)
    few = X[::40].astype(np.float64)
    expected = {
        "value": network,
        "jacobian": jax.jacfwd(network, 1),
        "hessian": jax.hessian(network, 1),
        "hessian_diagonal": lambda p, x: jax.numpy.einsum("acc->ac", jax.hessian(network, 1)(p, x)),
    }
    group = xarray.open_zarr(out / "diabetes.zarr")
    assert group.attrs["complete"] is True
    assert group["hessian"].dims == ("sample", "output", "input", "input_2")
    assert list(group["output"].values) == ["mean", "log_variance"]
    assert "body mass index" in list(group["input"].values)
    for want, derive in expected.items():
        reference = jax.jit(jax.vmap(derive, (None, 0)))(params, few)
        stored = group[want].values
        assert len(stored) == 442
        np.testing.assert_allclose(stored[::40], reference, rtol=1e-4, atol=1e-4 * np.abs(reference).max())


@group
def test_demo_network_has_learned_something(demo):
    _, text = demo
    r2, loss = map(float, re.search(r"^  network +(\S+) +(\S+)$", text, re.MULTILINE).groups())
    constant_r2, constant_loss = map(float, re.search(r"^  constant +(\S+) +(\S+)$", text, re.MULTILINE).groups())
    assert 0.4 < r2 < 0.7, "linear regression reaches 0.49 here; much more would mean that the test patients leaked"
    assert abs(constant_r2) < 0.05
    assert loss < constant_loss - 0.2


@group
def test_demo_says_what_drives_what_interacts_and_where_it_is_unsure(demo):
    _, text = demo
    first = re.search(r"same sign in\n  (.{20})", text).group(1).strip()
    assert first in {"body mass index", "log triglycerides"}  # known since the data were published
    for line in ("mean |H|", "change of sigma", "predicted sigma of the progression"):
        assert line in text


@group
def test_demo_shows_the_example_of_the_forum(demo):
    _, text = demo
    for shape in ("(2, 8)", "(2, 4, 8)", "(2, 4, 4, 8)"):
        assert shape in text
    errors = [float(e) for e in re.findall(r"differs from the formula by at most (\S+)", text)]
    assert len(errors) == 3
    assert max(errors) < 1e-5
    assert re.search(r"^ +4,096 .* ms .* ms +\d+x$", text, re.MULTILINE)


@group
def test_demo_picture_is_a_picture(demo):
    from matplotlib.image import imread

    out, _ = demo
    pixels = imread(out / "diabetes.png")
    assert min(pixels.shape[:2]) > 800
    # Nothing touches the border, that is, nothing is cut off.
    for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
        assert np.all(edge == 1.0)


@group
def test_demo_command_derives_its_model_again(demo):
    import zarr

    out, text = demo
    command = re.search(r"^  nablax (derive .*)$", text, re.MULTILINE).group(1)
    done = run("-m", "nablax.cli", *shlex.split(command))
    assert done.returncode == 0, done.stderr
    again, before = zarr.open_group(str(out / "again.zarr")), zarr.open_group(str(out / "diabetes.zarr"))
    assert sorted(again.array_keys()) == ["hessian_diagonal", "jacobian"]
    for want in again.array_keys():
        np.testing.assert_allclose(again[want][:], before[want][:], rtol=1e-4, atol=1e-4)


# --- how the demo reads derivatives ---


def planted():
    """Derivatives of mean = 5 x1 - 2 x0 x2 and log variance = 0.2 x0, at three patients."""
    from nablax._demo.report import Derivatives

    x = np.array([[1.0, 0.0, 2.0], [-1.0, 3.0, 1.0], [2.0, -1.0, -1.0]])
    hessian = np.zeros((3, 2, 3, 3))
    hessian[:, 0, 0, 2] = hessian[:, 0, 2, 0] = -2.0
    jacobian = np.zeros((3, 2, 3))
    jacobian[:, 0] = np.stack([-2 * x[:, 2], np.full(3, 5.0), -2 * x[:, 0]], axis=1)
    jacobian[:, 1, 0] = 0.2
    value = np.stack([5 * x[:, 1] - 2 * x[:, 0] * x[:, 2], 0.2 * x[:, 0]], axis=1)
    return Derivatives(value, jacobian, hessian, np.einsum("dacc->dac", hessian))


def test_report_ranks_drivers_and_interactions(capsys):
    from nablax._demo.report import print_drivers, print_interactions

    print_drivers(planted(), ["a", "b", "c"])
    drivers = capsys.readouterr().out.splitlines()[2:]
    assert drivers[0].split()[:3] == ["b", "5.0", "+5.0"]
    print_interactions(planted(), ["a", "b", "c"], rows=1)
    assert "a x c                                         2.00     -2.00" in capsys.readouterr().out


def test_sigma_change_is_the_relative_derivative_of_sigma():
    d = planted()
    h = 1e-6
    numeric = (np.exp(0.5 * (d.value[:, 1] + 0.2 * h)) - d.sigma) / h / d.sigma
    np.testing.assert_allclose(d.sigma_change[:, 0], numeric, rtol=1e-5)
