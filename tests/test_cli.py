"""The command line, on real files, in this process where that is enough."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import xarray

from nablax import cli, store

MODEL = """
import jax.numpy as jnp

def network(params, x):
    return jnp.tanh(x @ params["W"]) @ params["V"]

def wrong(params, x):
    raise RuntimeError("out of cheese")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    (tmp_path / "model.py").write_text(MODEL)
    np.save(tmp_path / "X.npy", rng.normal(size=(17, 4)).astype(np.float32))
    np.savetxt(tmp_path / "X.csv", rng.normal(size=(9, 4)), delimiter=",", header="a,b,c,d", comments="")
    store.save_parameters(tmp_path / "p.npz", {"W": rng.normal(size=(4, 6)), "V": rng.normal(size=(6, 2))})
    monkeypatch.chdir(tmp_path)
    before = jax.config.read("jax_enable_x64")
    yield tmp_path
    jax.config.update("jax_enable_x64", before)


def run(line: str) -> int:
    return cli.main(line.split())


def test_derive_writes_a_store_and_prints_its_table(folder, capsys):
    line = "derive model.py:network --params p.npz --inputs X.npy --of jacobian hessian_diagonal --out d.zarr --unit-size 5"
    assert run(line) == 0
    out = capsys.readouterr()
    assert "17x2x4" in out.out
    assert "float32" in out.out
    assert "17/17" in out.err  # the bar
    data = xarray.open_zarr(folder / "d.zarr")
    assert set(data) == {"jacobian", "hessian_diagonal"}
    assert data.attrs["model"] == "model.py:network"
    assert data.attrs["complete"]


def test_csv_in_double_precision_keeps_its_header(folder, capsys):
    line = (
        "derive model.py:network --params p.npz --inputs X.csv --of jacobian --out d.zarr --precision float64 --quiet"
    )
    assert run(line) == 0
    data = xarray.open_zarr(folder / "d.zarr")
    assert data["jacobian"].dtype == np.float64
    assert list(data["input"].values) == ["a", "b", "c", "d"]
    params, X = store.load_parameters("p.npz"), store.read_inputs("X.csv").array
    slope = 1 - np.tanh(X @ params["W"]) ** 2
    np.testing.assert_allclose(
        data["jacobian"], np.einsum("ch,dh,ha->dac", params["W"], slope, params["V"]), rtol=1e-12
    )
    assert capsys.readouterr().err == ""


def test_check_prints_its_report(folder, capsys):
    assert run("check model.py:network --params p.npz --inputs X.npy --of hessian --samples 2") == 0
    assert "nested AD in float64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("derive model.py:network --params p.npz --inputs nothing.npy", "nothing.npy: there is no such file"),
        ("derive model.py:network --params nothing.npz --inputs X.npy", "nothing.npz: there is no such file"),
        ("derive model.py:netwrok --params p.npz --inputs X.npy", "no function 'netwrok'; it has network, wrong"),
        ("derive nothing.py:network --inputs X.npy", "nothing.py: there is no such file"),
        ("derive model.py --inputs X.npy", "names no function"),
        ("derive no.such.module:f --inputs X.npy", "ModuleNotFoundError"),
        ("derive model.py:wrong --params p.npz --inputs X.npy", "out of cheese"),
        ("derive model.py:network --inputs X.npy", "missing 1 required positional argument"),
        ("derive model.py:network --params p.npz --inputs X.npy --strategy magic", "strategy='magic' is unknown"),
        (
            "derive model.py:network --params p.npz --inputs X.npy --of divergence",
            "divergence needs a model whose output",
        ),
        ("derive model.py:network --params p.npz --inputs X.npy --out model.py", "it exists already"),
        ("derive model.py:network --params p.npz --inputs X.npy --out model.py --overwrite", "no zarr group"),
        ("derive model.py:network --params p.npz --inputs X.npy --out model.py/d.zarr", "cannot be written"),
        ("derive model.py:network --params p.npz --inputs X.npy --unit-size 0", "unit_size=0 must be a positive int"),
    ],
)
def test_an_error_of_the_user_is_one_line_and_exit_code_2(folder, capsys, line, message):
    assert run(line) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("nablax: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_model_file_that_raises_is_named(folder, capsys):
    (folder / "broken.py").write_text("1 / 0\n")
    assert run("derive broken.py:f --inputs X.npy") == 2
    assert "broken.py: the file raised ZeroDivisionError" in capsys.readouterr().err


def test_debug_shows_the_traceback(folder):
    with pytest.raises(store.inputs.DataError):
        run("derive model.py:network --inputs nothing.npy --debug")


def test_help_and_version_do_not_wait_for_jax():
    code = (
        "import sys, nablax.cli\n"
        "try:\n    nablax.cli.main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print([m for m in ('jax', 'zarr', 'matplotlib', 'tqdm') if m in sys.modules], file=sys.stderr)"
    )
    for arguments, expected in (
        (["--help"], "Examples:"),
        (["derive", "--help"], "--unit-size"),
        (["--version"], "nablax "),
    ):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert expected in done.stdout
        assert done.stderr.strip() == "[]"
