"""Public functions of JAX through nablax: a few in every run, all by `make slow`; and docs/conformance.md."""

import jax
import pytest
from conformance import judge, page
from conformance.calls import cases

CASES = {repr(case): case for case in cases()}
VERSION, ROWS = page.read()

# One of each kind: first order only, a derivative of zero, a mask.
FEW = (
    "jax.lax.igamma",
    "jax.lax.nextafter",
    "jax.scipy.special.xlogy",
)


def agrees(name: str) -> None:
    """The outcome that the page states, with this version of JAX; with another one, at least nothing wrong."""
    case = CASES[name]
    found = judge.judge(case.function, case.calls)
    assert not [finding for finding in found if finding.outcome in (judge.WRONG, judge.RAISES)], found
    if jax.__version__ == VERSION and name in ROWS:
        assert [(f.call, f.outcome) for f in found] == [(f.call, f.outcome) for f in ROWS[name]]


@pytest.mark.parametrize("name", [name for name in FEW if name in CASES])
def test_a_few_functions(name):
    agrees(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if name in ROWS and not case.same])
def test_every_function(name):
    agrees(name)


def test_page_says_what_the_tables_of_calls_say():
    """Functions that it does not list are no failure: a later version of JAX may have more, and fewer."""
    if jax.__version__ != VERSION:
        pytest.skip(f"the page is about JAX {VERSION}")
    assert page.stale(list(CASES.values()), ROWS) == []


def test_nothing_on_the_page_is_wrong():
    outcomes = {finding.outcome for found in ROWS.values() if not isinstance(found, str) for finding in found}
    assert outcomes <= set(page.MEANING) - {judge.WRONG, judge.RAISES}
    assert len(ROWS) > 500


def test_a_wrong_derivative_is_found():
    """The judge itself: a table that promises too much makes a wrong number."""
    import nablax

    wrong = nablax.default_table.extended(linear=[jax.lax.cumprod_p])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nablax._call, "default_table", wrong)
        (finding,) = judge.judge(jax.lax.cumprod, "f(v)")
    assert finding.outcome == judge.WRONG
    assert finding.error > 1e-3
