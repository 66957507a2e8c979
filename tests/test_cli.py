"""The command line, on real files, in this process where that is enough."""

import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pytest
import xarray
import zarr
from pyarrow import parquet

from nablax import cli, store

MODEL = """
import jax.numpy as jnp

def network(params, x):
    return jnp.tanh(x @ params["W"]) @ params["V"]

def lines(params, x):
    raise RuntimeError("out of cheese\\nin two lines")

def root(x):
    return jnp.sqrt(x)
"""

WRONG = """
import jax, jax.numpy as jnp

@jax.custom_jvp
def network(x):
    return jnp.sin(x)

network.defjvp(lambda x, t: (jnp.sin(x[0]), jnp.where(x[0] == 1, 2, 1) * jnp.cos(x[0]) * t[0]))
"""

MODULE = """
from __future__ import annotations

import dataclasses
import jax.numpy as jnp

@dataclasses.dataclass
class Network:
    scale: dataclasses.InitVar[float]

    def __post_init__(self, scale):
        self.factor = scale

    def __call__(self, x):
        return jnp.sin(self.factor * x)

network = Network(2.0)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    (tmp_path / "model.py").write_text(MODEL)
    np.save(tmp_path / "X.npy", rng.normal(size=(17, 4)).astype(np.float32))
    np.savetxt(tmp_path / "X.csv", rng.normal(size=(9, 4)), delimiter=",", header="a,b,c,d", comments="")
    np.save(tmp_path / "narrow.npy", np.ones((5, 3), np.float32))
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "truncated.npy").write_bytes((tmp_path / "X.npy").read_bytes()[:-4])
    (tmp_path / "text.csv").write_text("a,b\n1,2\n3,x\n")
    np.savez(tmp_path / "wrong.npz", W=np.ones((3, 6)), V=np.ones((6, 2)))
    np.savez(tmp_path / "text.npz", W=np.array(["one"]))
    (tmp_path / "full").symlink_to("/dev/full")
    zarr.create_group(str(tmp_path / "other.zarr"))
    store.save_parameters(tmp_path / "p.npz", {"W": rng.normal(size=(4, 6)), "V": rng.normal(size=(6, 2))})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = jax.config.read("jax_enable_x64")
    yield tmp_path
    jax.config.update("jax_enable_x64", before)


DERIVE = "derive model.py:network --params p.npz --inputs X.npy"


def run(line: str) -> int:
    return cli.main(line.split())


def test_derive_writes_a_store_and_prints_its_table(folder, capsys):
    assert run(f"{DERIVE} --of jacobian hessian_diagonal --out d.zarr --unit-size 5") == 0
    out = capsys.readouterr()
    assert "17x2x4" in out.out
    assert "float32" in out.out
    assert not jax.config.read("jax_enable_x64")
    assert "17/17" in out.err  # the bar
    data = xarray.open_zarr(folder / "d.zarr")
    assert set(data) == {"jacobian", "hessian_diagonal"}
    assert data["hessian_diagonal"].dims == ("sample", "output", "input")
    assert data.attrs["results"]["jacobian"] == {
        "shape": [17, 2, 4],
        "dtype": "float32",
        "axes": ["sample", "output", "input"],
    }
    assert data.attrs["model"] == "model.py:network"
    assert data.attrs["complete"]


def test_csv_in_double_precision_keeps_its_header(folder, capsys):
    jax.config.update("jax_enable_x64", False)  # as it is when the command starts
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


def test_check_reads_a_few_samples_and_names_them_by_their_place_in_the_file(folder, capsys):
    (folder / "wrong.py").write_text(WRONG)
    X = np.zeros((17, 4), np.float32)
    X[8] = 1.0  # the samples 0, 8 and 16 are checked, and only this one has a slope
    np.save("X.npy", X)
    assert run("check wrong.py:network --inputs X.npy --of jacobian --samples 3") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nablax.check: 3 samples, float32"
    assert "finite differences" in lines[2]
    assert "worst sample 8 " in lines[2]
    assert "DIFFERS" in lines[2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("derive model.py:network --params p.npz --inputs nothing.npy", "nothing.npy: there is no such file"),
        ("derive model.py:network --params nothing.npz --inputs X.npy", "nothing.npz: there is no such file"),
        ("derive model.py:netwrok --params p.npz --inputs X.npy", "no function 'netwrok'; it has network, lines"),
        ("derive nothing.py:network --inputs X.npy", "nothing.py: there is no such file"),
        ("derive model.py --inputs X.npy", "names no function"),
        ("derive :network --inputs X.npy", "names no function"),
        ("derive no.such.module:f --inputs X.npy", "ModuleNotFoundError"),
        ("derive model.py:lines --params p.npz --inputs X.npy", "the model raised RuntimeError"),
        ("derive model.py:network --inputs X.npy", "missing 1 required positional argument"),
        ("derive model.py:network --params p.npz --inputs narrow.npy", "argument 1: float32[3]"),
        ("derive model.py:network --params wrong.npz --inputs X.npy", "['W'] float32[3, 6]; argument 1: float32[4]"),
        ("derive model.py:network --params text.npz --inputs X.npy", "text.npz: 'W' has dtype <U3; parameters must be"),
        ("derive model.py:network --params p.npz --inputs truncated.npy", "truncated.npy: the file is damaged"),
        ("derive model.py:network --params p.npz --inputs pickled.npy", "pickled Python objects, which are never"),
        ("derive model.py:network --params p.npz --inputs text.csv", "text.csv: row 3, column 2 (b) holds 'x'"),
        (f"{DERIVE} --strategy magic", "strategy='magic' is unknown"),
        (f"{DERIVE} --of divergence", "divergence needs a model whose output"),
        (f"{DERIVE} --out model.py", "it exists already"),
        (f"{DERIVE} --out model.py --overwrite", "no zarr group"),
        (f"{DERIVE} --out model.py/d.zarr", "cannot be written"),
        (f"{DERIVE} --out full", "it exists already"),
        (f"{DERIVE} --out full/d.zarr", "the store cannot be written"),
        (f"{DERIVE} --overwrite --resume", "exclude each other"),
        (f"{DERIVE} --resume --out other.zarr", "no store of nablax that a run could resume"),
        (f"{DERIVE} --memory 1MiB", "memory_budget=1.0 MiB is too little"),
        (f"{DERIVE} --memory plenty", "memory_budget='plenty' must be"),
        (f"{DERIVE} --devices 77", "devices=77 must be an int from 1 to"),
        (f"{DERIVE} --processes 2", "--processes is for --distributed"),
        ("derive model.py:root --inputs X.npy --of gram", "derivatives by parameters, and there are none"),
        ("inspect nothing.zarr", "nothing.zarr"),
        ("inspect model.py", "model.py"),
        (f"{DERIVE} --unit-size 0", "unit_size=0 must be a positive int"),
        (f"{DERIVE} --chunk-size 0", "chunk_size=0 must be a positive int"),
        ("check model.py:network --params p.npz --inputs X.npy --samples 0", "samples=0 must be a positive int"),
        ("check model.py:network --params p.npz --inputs narrow.npy", "argument 1: float32[3]"),
        ("demo --out model.py", "FileExistsError"),
    ],
)
def test_an_error_of_the_user_is_one_line_and_exit_code_2(folder, capsys, line, message):
    before = sorted(path.name for path in folder.iterdir())
    assert run(line) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("nablax: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(path.name for path in folder.iterdir()) == before  # not even the beginning of a store


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0\n", "broken.py: ZeroDivisionError was raised when it was imported (division by zero)"),
        ("import sys\nsys.exit('bye')\n", "broken.py: SystemExit was raised when it was imported (bye)"),
        ("def f(:\n", "broken.py: SyntaxError was raised"),
        ("raise ValueError('two\\nlines')\n", "(two lines)"),
    ],
)
def test_a_model_file_that_raises_is_named(folder, capsys, text, message):
    (folder / "broken.py").write_text(text)
    assert run("derive broken.py:f --inputs X.npy") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_model_that_returns_nan_ends_the_run(folder, capsys):
    np.save("roots.npy", np.array([[4.0], [1.0], [-1.0]], np.float32))
    line = "derive model.py:root --inputs roots.npy --out d.zarr --quiet --of jacobian"
    assert run(line) == 2
    error = capsys.readouterr().err
    assert "NonFiniteError: entries are NaN or infinite (1 in jacobian), in samples 2" in error
    assert error.count("\n") == 1
    assert zarr.open_group("d.zarr", mode="r").attrs["complete"] is False
    assert run(f"{line} --resume --on-nonfinite warn") == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("nablax: RuntimeWarning: d.zarr: entries are NaN or infinite: 1 in jacobian")
    assert captured.err.count("\n") == 1
    assert "jacobian is not finite in samples 2" in captured.out


def test_a_store_of_another_model_is_not_gone_on_with(folder, capsys):
    assert run(f"{DERIVE} --out d.zarr --quiet") == 0
    before = {path: path.stat().st_mtime_ns for path in Path("d.zarr").rglob("*")}
    capsys.readouterr()
    (folder / "model.py").write_text(MODEL.replace("tanh", "sin"))
    assert run(f"{DERIVE} --out d.zarr --quiet --resume") == 2
    error = capsys.readouterr().err
    assert "belongs to another run (other model)" in error
    assert error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in Path("d.zarr").rglob("*")} == before


def test_inspect_says_and_draws_what_is_there(folder, capsys):
    assert run(f"{DERIVE} --of jacobian gram --out d.zarr --quiet") == 0
    capsys.readouterr()
    assert run("inspect d.zarr --plot d.png") == 0
    captured = capsys.readouterr()
    assert "17x2x17x2" in captured.out
    assert "complete: all of" in captured.out
    assert captured.err == "drawn to d.png\n"
    assert Path("d.png").read_bytes().startswith(b"\x89PNG")
    assert run("inspect d.zarr --json") == 0
    assert json.loads(capsys.readouterr().out)["complete"] is True


def test_parquet_inputs_keep_their_names(folder, capsys):
    parquet.write_table(pyarrow.table({name: np.arange(5.0) + k for k, name in enumerate("abcd")}), "X.parquet")
    assert run("derive model.py:network --params p.npz --inputs X.parquet --out d.zarr --quiet") == 0
    assert list(xarray.open_zarr("d.zarr")["input"].values) == list("abcd")


def test_a_pickle_is_never_loaded(folder):
    class Trap:
        def __reduce__(self):
            return (open, (str(folder / "sprung"), "w"))

    np.save("array.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez("array.npz", X=np.array([Trap()], dtype=object))
    Path("bare.npy").write_bytes(pickle.dumps(Trap()))
    for name in ("array.npy", "array.npz", "bare.npy"):
        assert run(f"derive model.py:network --params p.npz --inputs {name}") == 2
        assert run(f"derive model.py:network --params {name} --inputs X.npy") == 2
    assert not (folder / "sprung").exists()
    np.load("array.npy", allow_pickle=True)
    assert (folder / "sprung").exists()  # the trap works


def test_a_model_may_be_a_module_of_the_working_folder_and_hold_dataclasses(folder):
    (folder / "package_of_models").mkdir()
    (folder / "package_of_models" / "inner.py").write_text(MODULE)
    (folder / "callable.py").write_text(MODULE)
    assert run("derive package_of_models.inner:network --inputs X.npy --out a.zarr --quiet") == 0
    assert run("derive callable.py:network --inputs X.npy --out b.zarr --quiet") == 0
    slope = 2 * np.cos(2 * np.load("X.npy"))
    for name in ("a.zarr", "b.zarr"):
        found = np.diagonal(xarray.open_zarr(name)["jacobian"].values, axis1=1, axis2=2)
        np.testing.assert_allclose(found, slope, rtol=1e-5, atol=1e-5)


def test_warnings_are_one_line_each_and_writing_makes_none(folder):
    """In a process of its own: pytest gathers warnings instead of letting them through."""
    (folder / "relu.py").write_text("import jax\n\n\ndef network(x):\n    return jax.nn.relu(x)\n")
    line = [sys.executable, "-m", "nablax.cli", "derive", "relu.py:network", "--inputs", "X.csv", "--quiet", "--of"]
    done = subprocess.run([*line, "hessian"], capture_output=True, text=True, check=True)
    assert done.stderr.startswith("nablax: ZeroSecondDerivativeWarning: ")
    assert done.stderr.count("\n") == 1
    done = subprocess.run([*line, "jacobian", "--out", "e.zarr"], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_an_interrupt_before_there_is_a_store(folder, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nablax.store.run", interrupted)
    assert run(f"{DERIVE} --out d.zarr --quiet") == 130
    assert capsys.readouterr().err == "nablax: interrupted.\n"
    assert not Path("d.zarr").exists()


def test_explain_says_what_would_be_done(folder, capsys):
    line = "explain model.py:network --params p.npz --inputs X.npy --of hessian"
    assert run(line) == 0
    text = capsys.readouterr().out
    assert "2 outputs, 4 inputs, 17 samples; wants hessian" in text
    assert "chosen" in text
    assert run(f"{line} --samples 5 --strategy forward --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["outputs"], found["inputs"], found["samples"], found["strategy"]) == (2, 4, 5, "forward")
    assert all(candidate["seconds"] is None for candidate in found["candidates"])
    assert run(f"{line} --measure --json") == 0
    served = [c for c in json.loads(capsys.readouterr().out)["candidates"] if c["why_not"] is None]
    assert len(served) >= 4
    assert all(candidate["seconds"] > 0 for candidate in served)
    assert run(f"{line} --samples 0") == 2
    assert "zero samples" in capsys.readouterr().err


def test_reports_are_json_that_other_programs_read(folder, capsys):
    assert run(f"{DERIVE} --of jacobian --out d.zarr --quiet --json") == 0
    wrote = json.loads(capsys.readouterr().out)
    assert (wrote["samples"], wrote["rows"][0]["shape"]) == (17, [17, 2, 4])
    assert run("check model.py:network --params p.npz --inputs X.npy --json") == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["passed"] is True
    assert {c["reference"] for c in checked["comparisons"]} >= {"nested AD in float64", "finite differences"}
    (folder / "wrong.py").write_text(WRONG)
    np.save("ones.npy", np.ones((2, 3), np.float32))
    assert run("check wrong.py:network --inputs ones.npy --json") == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False
    np.save("minus.npy", -np.ones((2, 3), np.float32))
    assert run("derive model.py:root --inputs minus.npy --out r.zarr --on-nonfinite warn --quiet --json") == 0
    row = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["rows"][0]  # NaN is not JSON
    assert row["lowest"] is None
    assert row["nonfinite"] > 0


def test_verbose_speaks_on_stderr(folder, capsys):
    assert run(f"{DERIVE} --of jacobian squared_norms --out d.zarr --quiet --json --verbose") == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    assert f"jax {jax.__version__}" in captured.err
    assert "X.npy: 17x4, float32; 36 parameters; computed in float32" in captured.err
    assert "wants jacobian" in captured.err


def test_help_of_each_command_has_examples(capsys):
    for command in ("derive", "inspect", "explain", "check", "demo", "completion"):
        with pytest.raises(SystemExit) as ended:
            run(f"{command} --help")
        assert ended.value.code == 0
        assert f"Examples:\n  nablax {command} " in capsys.readouterr().out


def test_a_shell_completes_commands_and_options(tmp_path):
    script = subprocess.run(
        [sys.executable, "-m", "nablax.cli", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    (tmp_path / "nablax.sh").write_text(script)
    ask = (
        f"source {tmp_path / 'nablax.sh'}; COMP_WORDS=(nablax insp); COMP_CWORD=1; _tyro_nablax; "
        "echo ${COMPREPLY[@]}; COMP_WORDS=(nablax derive --on); COMP_CWORD=2; _tyro_nablax; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["inspect", "--on-nonfinite"]


def test_a_reader_that_has_seen_enough_is_no_error(folder):
    store.run(jnp.sin, ["jacobian"], np.ones((3, 2), np.float32), folder / "d.zarr", progress=False)
    read, write = os.pipe()
    os.close(read)
    line = [sys.executable, "-m", "nablax.cli", "inspect", "d.zarr"]
    done = subprocess.run(line, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_debug_shows_the_traceback(folder):
    with pytest.raises(store.inputs.DataError):
        run("derive model.py:network --inputs nothing.npy --debug")


def test_help_and_version_do_not_wait_for_jax():
    code = (
        "import sys, nablax.cli\n"
        "try:\n    nablax.cli.main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print([m for m in ('jax', 'numpy', 'zarr', 'matplotlib', 'tqdm') if m in sys.modules], file=sys.stderr)"
    )
    for arguments, expected in (
        (["--help"], "Examples:"),
        (["derive", "--help"], "--unit-size"),
        (["--version"], f"nablax {importlib.metadata.version('nablax')}"),
    ):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert expected in done.stdout
        assert done.stderr.strip() == "[]"
