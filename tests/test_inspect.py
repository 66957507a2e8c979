"""What is said and drawn of a store: complete or not, with NaN, damaged, or none at all."""

import json
import re
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from matplotlib.figure import Figure

from nablax.errors import DataError
from nablax.store import means, picture
from nablax.store.picture import plot_store
from nablax.store.report import merged, statistics
from nablax.store.summary import StoreSummary, inspect_store

A, B, C, D, UNIT = 2, 7, 3, 20, 6
UNITS = [(begin, min(begin + UNIT, D)) for begin in range(0, D, UNIT)]
SHAPES = {
    "value": "output",
    "jacobian": "output input",
    "hessian": "output input input_2",
    "hessian_diagonal": "output input",
    "laplacian": "output",
    "divergence": "",
    "parameter_jacobian": "output parameter",
    "gram": "output sample_2 output_2",
    "squared_norms": "output",
}


def values_of(wants, a=A, c=C, samples=D, dtype="f8", seed=0):
    """Made-up results: want -> array."""
    sizes = {"output": a, "output_2": a, "input": c, "input_2": c, "parameter": B, "sample_2": samples}
    rng, found = np.random.default_rng(seed), {}
    for want in wants:
        shape = (samples, *(sizes[axis] for axis in SHAPES[want].split()))
        found[want] = (rng.normal(size=shape) + (1j * rng.normal(size=shape) if dtype[0] == "c" else 0)).astype(dtype)
    return found


def write_store(path, results, *, done=None, axes=None, names=None, unit=UNIT, features=C, **attributes):
    """A store as `nablax.store.run` writes it; `done`: numbers of the units that are complete, None for all."""
    samples = next(iter(results.values())).shape[0]
    units = [(begin, min(begin + unit, samples)) for begin in range(0, samples, unit)]
    axes = {want: ["sample", *SHAPES[want].split()] for want in results} | (axes or {})
    described = {want: {"shape": v.shape, "dtype": str(v.dtype), "axes": axes[want]} for want, v in results.items()}
    group = zarr.create_group(path)
    known = {}
    for want, values in results.items():
        chunks = tuple(
            unit if axis.startswith("sample") else n for axis, n in zip(axes[want], values.shape, strict=True)
        )
        fill = complex(np.nan, np.nan) if values.dtype.kind == "c" else np.nan
        array = group.create_array(
            want,
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            fill_value=fill,
            dimension_names=axes[want],
            config={"write_empty_chunks": True},
        )
        for k, (begin, end) in enumerate(units):
            if done is None or k in done:
                array[begin:end] = values[begin:end]
            known.setdefault(k, {})[want] = statistics(values[begin:end], begin)
    for axis, labels in (names or {}).items():
        group.create_array(axis, shape=(len(labels),), dtype=str)[:] = np.array(labels, dtype=object)
    group.attrs.update(
        {
            "complete": done is None,
            "model": "model.py:network",
            "wants": list(results),
            "strategy": "auto",
            "inputs": {"shape": [samples, features], "dtype": "float32"},
            "results": described,
            "unit_size": unit,
            "units": len(units),
            "versions": {"nablax": "0.1", "jax": "0.10"},
            "device": "cpu",
            "created": "2026-01-01T00:00:00+00:00",
            "identity": {"model": "abc", "nablax": "0.1"},
            **(
                {"statistics": {want: merged(known[k][want] for k in known) for want in results}}
                if done is None
                else {}
            ),
            **attributes,
        }
    )
    if done is not None:
        Path(path, ".nablax").mkdir()
        for k in done:
            record = {"unit": k, "samples": list(units[k]), "statistics": known[k]}
            Path(path, ".nablax", f"{k:06d}.json").write_text(json.dumps(record))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestSummary:
    def test_a_complete_store(self, folder):
        results = values_of(SHAPES)
        write_store("d.zarr", results, names={"input": ["age", "sex", "bmi"], "output": ["mean", "sigma"]})
        found = inspect_store("d.zarr")
        assert isinstance(found, StoreSummary)
        assert [(row.name, row.shape, row.dtype) for row in found.rows] == [
            (want, values.shape, "float64") for want, values in results.items()
        ]
        for row in found.rows:
            assert (row.lowest, row.highest) == (results[row.name].min(), results[row.name].max())
            assert row.mebibytes == results[row.name].nbytes / 2**20
        assert (found.complete, found.units, found.units_complete, found.spans) == (True, 4, 4, ((0, D),))
        assert found.names == {"input": ("age", "sex", "bmi"), "output": ("mean", "sigma")}
        assert found.axes["hessian"] == ("sample", "output", "input", "input_2")
        text = str(found)
        assert text.splitlines()[0] == f"d.zarr: derivatives of model.py:network for samples {D}x{C} in float32"
        assert re.search(rf"^hessian +{D}x2x3x3 +float64 +0\.00275 ", text, re.MULTILINE)
        assert "complete: all of 4 units" in text
        assert "nablax 0.1, jax 0.10" in text
        assert "not finite in" not in text

    @pytest.mark.parametrize(
        ("done", "spans", "words"),
        [
            ((), (), "0 of 4 units are there;"),
            ((0, 1), ((0, 12),), r"2 of 4 units are there \(samples 0 to 11: 12 of 20\)"),
            ((0, 2, 3), ((0, 6), (12, 20)), r"3 of 4 .* \(samples 0 to 5, 12 to 19: 14 of 20\)"),
        ],
    )
    def test_a_store_that_is_not_complete(self, folder, done, spans, words):
        results = values_of(["jacobian"])
        write_store("d.zarr", results, done=done)
        found = inspect_store("d.zarr")
        assert (found.complete, found.units_complete, found.spans) == (False, len(done), spans)
        there = [results["jacobian"][begin:end] for begin, end in spans]
        if there:
            assert found.rows[0].lowest == min(piece.min() for piece in there)
        assert re.search(f"not complete: {words}.*--resume", str(found))

    def test_many_spans_are_not_all_printed(self, folder):
        write_store("d.zarr", values_of(["value"]), done=range(0, D, 2), unit=1)
        assert "samples 0 to 0, 2 to 2, 4 to 4, 6 to 6, ..: 10 of 20" in str(inspect_store("d.zarr"))

    def test_a_unit_of_pairs_completes_no_sample(self, folder):
        write_store("d.zarr", values_of(["gram"]), done=[0, 1])
        assert inspect_store("d.zarr").spans == ()
        assert "2 of 4 units are there; give" in str(inspect_store("d.zarr"))

    def test_entries_that_are_not_finite_have_advice(self, folder):
        results = values_of(["value", "jacobian"])
        results["jacobian"][[2, 7]] = np.nan
        results["value"][:] = np.inf
        write_store("d.zarr", results)
        found = inspect_store("d.zarr")
        assert found.rows[1].nonfinite == 2 * A * C
        assert "jacobian is not finite in samples 2, 7: look at these samples" in str(found)
        assert re.search(r"^value .* - +- +40$", str(found), re.MULTILINE)

    def test_it_is_json(self, folder):
        results = values_of(["value", "jacobian"])
        results["value"][:] = np.nan
        write_store("d.zarr", results, done=[1])
        back = json.loads(json.dumps(inspect_store("d.zarr").to_dict(), allow_nan=False))
        assert back["rows"][0]["lowest"] is None
        assert back["spans"] == [[6, 12]]
        assert back["rows"][1]["shape"] == [D, A, C]
        assert back["versions"] == {"nablax": "0.1", "jax": "0.10"}


class TestWhatIsNoStore:
    def test_no_folder(self, folder):
        Path("file.zarr").write_text("")
        for name in ("missing.zarr", "file.zarr"):
            with pytest.raises(DataError, match=rf"{name}: there is no such store"):
                inspect_store(name)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"zarr_format": 3, "node_type": "array"}'])
    def test_damaged_metadata(self, folder, text):
        write_store("d.zarr", values_of(["value"]))
        Path("d.zarr/zarr.json").write_text(text)
        with pytest.raises(DataError, match=r"no store of derivatives, or a damaged one"):
            inspect_store("d.zarr")

    def test_stores_of_something_else(self, folder):
        Path("folder.zarr").mkdir()
        zarr.create_array("array.zarr", shape=(3,), dtype="f4")
        zarr.create_group("group.zarr", attributes={"title": "weather"})
        for name, why in (
            ("folder", "No group"),
            ("array", "it is a single array"),
            ("group", "'complete' is missing"),
        ):
            with pytest.raises(DataError, match=rf"{name}.zarr: it is no store of derivatives.*{why}"):
                inspect_store(f"{name}.zarr")

    def test_what_was_lost_is_named(self, folder):
        write_store("whole.zarr", values_of(["value", "jacobian"]))
        shutil.copytree("whole.zarr", "array.zarr")
        shutil.rmtree("array.zarr/jacobian")
        shutil.copytree("whole.zarr", "chunk.zarr")
        Path("chunk.zarr/jacobian/c/1/0/0").unlink()
        shutil.copytree("whole.zarr", "shape.zarr")
        shutil.rmtree("shape.zarr/value")
        zarr.create_array("shape.zarr/value", shape=(D, A + 1), dtype="f8")
        write_store("record.zarr", values_of(["value"]), done=[0, 1])
        Path("record.zarr/.nablax/000001.json").write_text('{"unit"')
        for name, why in (
            ("array", "'jacobian' is missing"),
            ("chunk", "1 of 4 files of jacobian are missing"),
            ("shape", "the array value is not what the attributes say"),
            ("record", "damaged"),
        ):
            with pytest.raises(DataError, match=rf"{name}.zarr: .*{why}"):
                inspect_store(f"{name}.zarr")


class TestMeans:
    @pytest.mark.parametrize("dtype", ["f4", "c16"])
    @pytest.mark.parametrize("want", ["jacobian", "gram"])
    def test_pieces_make_the_whole(self, folder, monkeypatch, want, dtype):
        monkeypatch.setattr(means, "PIECE_BYTES", 200)
        values = values_of([want], dtype=dtype)[want]
        write_store("d.zarr", {want: values})
        array = zarr.open_group("d.zarr", mode="r")[want]
        pieces = means.pieces_of_pairs(array) if want == "gram" else means.pieces_of_samples(array, [(0, 6), (12, 20)])
        kept = values if want == "gram" else np.concatenate([values[:6], values[12:]])
        shown = np.abs(kept) if dtype == "c16" else kept
        mean = "" if want == "gram" else "value"
        found = means.measure(pieces, kept.size, float(shown.min()), float(shown.max()), mean)
        np.testing.assert_array_equal(found.counts, np.histogram(shown, found.edges)[0])
        assert found.counts.sum() == kept.size
        if mean:
            np.testing.assert_allclose(found.mean, shown.mean(axis=0, dtype=float), rtol=1e-12)

    def test_entries_that_are_not_finite_are_left_out(self):
        values = np.array([[1.0, np.nan, np.nan], [-3.0, 4.0, np.inf]])
        found = means.measure([values[:1], values[1:]], 6, -3, 4, "absolute")
        np.testing.assert_array_equal(found.mean, [2, 4, np.nan])
        assert found.counts.sum() == 3

    @pytest.mark.parametrize("value", [0.0, 3.0, -1e-320, 1.7e308, np.nan])
    def test_a_single_value_has_a_bin(self, value):
        found = means.measure([np.full((4, 2), value)], 8, value, value)
        assert np.all(np.diff(found.edges) >= 0)
        assert found.counts.sum() == (0 if np.isnan(value) else 8)

    def test_the_whole_is_never_in_memory(self, folder, monkeypatch):
        monkeypatch.setattr(means, "PIECE_BYTES", 2**18)
        values = np.ones((2**14, 128), dtype="f4")  # 8 MiB
        write_store("d.zarr", {"jacobian": values}, axes={"jacobian": ["sample", "input"]}, unit=2**9)
        array = zarr.open_group("d.zarr", mode="r")["jacobian"]
        del values
        tracemalloc.start()
        found = means.measure(means.pieces_of_samples(array, [(0, 2**14)]), 2**21, 0, 2, "value")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.counts.sum() == 2**21
        assert peak < 2**22


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, instead of their files."""
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    return drawn


def titles(figure):
    """Of the panels: colour bars have none."""
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


class TestPicture:
    def test_it_is_written(self, folder):
        write_store("d.zarr", values_of(["laplacian"]))
        for out, magic in (("d.png", b"\x89PNG"), ("d.svg", b"<?xml")):
            assert plot_store("d.zarr", out) == Path(out)
            assert Path(out).read_bytes().startswith(magic)

    def test_panels_show_the_means(self, folder, figures):
        results = values_of(["jacobian", "hessian"])
        results["jacobian"][5] = np.nan
        write_store(
            "d.zarr", results, names={"input": ["age", "sex", "a very long name of it"], "output": ["μ", "spread"]}
        )
        plot_store("d.zarr", "d.png")
        (figure,) = figures
        assert titles(figure) == [
            "jacobian\n6 not finite",
            "mean |jacobian|",
            "hessian",
            "mean hessian\nof μ",
            "mean hessian\nof spread",
        ]
        images = [axis.images[0].get_array() for axis in figure.axes if axis.images]
        np.testing.assert_allclose(images[0], np.nanmean(np.abs(results["jacobian"]), axis=0))
        np.testing.assert_allclose(images[2], results["hessian"].mean(axis=0)[1])
        heat = figure.axes[1]
        assert [label.get_text() for label in heat.get_xticklabels()] == ["age", "sex", "a very l…e of it"]
        assert (heat.get_xlabel(), heat.get_ylabel()) == ("input", "output")
        caption = figure.get_supxlabel()
        assert caption == (
            "Units: jacobian in y / x, hessian in y / x², where x is that of an input and y is that of an output. "
            "Entries that are not finite are left out."
        )

    def test_an_incomplete_store_shows_what_is_there(self, folder, figures):
        results = values_of(["jacobian", "gram"])
        write_store("d.zarr", results, done=[1, 3])
        array = zarr.open_group("d.zarr", mode="r+")["jacobian"]
        array[0:6] = 1e6  # of a unit that was not complete when the run was killed
        plot_store("d.zarr", "d.png")
        kept = np.concatenate([results["jacobian"][6:12], results["jacobian"][18:]])
        images = [axis.images[0].get_array() for axis in figures[0].axes if axis.images]
        np.testing.assert_allclose(images[0], np.abs(kept).mean(axis=0))
        assert np.isnan(images[1].filled(np.nan)[:6]).all()
        assert "8 of 20 samples" in figures[0].get_suptitle()
        assert "2 of 4 units are there" in figures[0].get_supxlabel()

    def test_complex_results_and_axes_of_several_ranks(self, folder, figures):
        values = values_of(["hessian"], a=1, dtype="c16")["hessian"].reshape(D, C, C)
        jacobian = np.arange(D * 2 * 2 * C, dtype="f8").reshape(D, 2, 2, C)
        axes = {"hessian": ["sample", "input", "input_2"], "jacobian": ["sample", "output", "input0", "input1"]}
        write_store("d.zarr", {"hessian": values, "jacobian": jacobian}, axes=axes)
        plot_store("d.zarr", "d.png")
        assert titles(figures[0]) == ["hessian", "mean |hessian|", "jacobian", "mean |jacobian|"]
        images = [axis.images[0].get_array() for axis in figures[0].axes if axis.images]
        np.testing.assert_allclose(images[0], np.abs(values).mean(axis=0))
        np.testing.assert_allclose(images[1], jacobian.mean(axis=0).reshape(2, 2 * C))

    def test_the_gram_matrix_of_the_first_samples(self, folder, figures, monkeypatch):
        monkeypatch.setattr(picture, "PAIRS", 8)
        results = values_of(["gram", "parameter_jacobian", "squared_norms"])
        write_store("d.zarr", results)
        plot_store("d.zarr", "d.png")
        names = ["gram", "gram, samples 0 to 7,\nsum over 2 outputs", "parameter jacobian", "squared norms"]
        assert titles(figures[0]) == names
        (image,) = [axis.images[0].get_array() for axis in figures[0].axes if axis.images]
        np.testing.assert_allclose(image, np.einsum("iaja->ij", results["gram"][:8, :, :8]))

    @pytest.mark.parametrize(("want", "c", "labelled"), [("hessian", 30, True), ("jacobian", 31, False)])
    def test_labels_do_not_overlap(self, folder, figures, want, c, labelled):
        names = {"input": [f"feature number {k}" for k in range(c)]}
        write_store("d.zarr", values_of([want], a=12, c=c), names=names, features=c)
        plot_store("d.zarr", "d.png")
        (figure,) = figures
        figure.draw_without_rendering()
        for axis in figure.axes:
            texts = [*axis.get_xticklabels(), axis.title, axis.xaxis.label], [*axis.get_yticklabels(), axis.yaxis.label]
            for group in texts:
                boxes = [text.get_window_extent() for text in group if text.get_text()]
                assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])
        inside = [axis.get_tightbbox() for axis in figure.axes]
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in inside)
        labels = {label.get_text() for axis in figure.axes for label in axis.get_xticklabels()}
        assert ("feature number 3" in labels) == labelled
        assert titles(figure)[1] == ("mean hessian,\nsum over 12 outputs" if want == "hessian" else "mean |jacobian|")

    def test_nothing_finite_and_extreme_numbers(self, folder, figures):
        results = values_of(["value", "jacobian"])
        results["value"][:] = np.nan
        results["jacobian"] *= 1e37
        write_store("d.zarr", {want: values.astype("f4") for want, values in results.items()})
        plot_store("d.zarr", "d.png")
        assert "nothing is finite" in [text.get_text() for text in figures[0].axes[0].texts]

    def test_errors(self, folder, monkeypatch):
        write_store("d.zarr", values_of(["value"]))
        write_store("begun.zarr", values_of(["value"]), done=[])
        with pytest.raises(DataError, match="no unit of the store is complete yet"):
            plot_store("begun.zarr", "d.png")
        for out in ("d.docx", "nowhere/d.png"):
            with pytest.raises(DataError, match=rf"{out}: the picture cannot be written"):
                plot_store("d.zarr", out)
        with pytest.raises(DataError, match=r"missing.zarr: there is no such store"):
            plot_store("missing.zarr", "d.png")
        chunk = Path("d.zarr/value/c/1/0")
        chunk.write_bytes(chunk.read_bytes()[:10])
        with pytest.raises(DataError, match=r"samples of the store cannot be read"):
            plot_store("d.zarr", "d.png")
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(DataError, match=r'pip install "nablax\[all\]"'):
            plot_store("d.zarr", "d.png")
