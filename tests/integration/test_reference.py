"""Every public name has a docstring with an example, and an entry in the reference."""

import doctest
import inspect
import re

import pytest
from public_names import constants, first_line, home, is_constant, modules, names_of, signature
from repository import ROOT

import bmrpruner

MODULES = {module.__name__: module for module in modules()}
NAMES = [
    pytest.param(name, value, id=f"{module}.{name}")
    for module in MODULES
    for name, value in names_of(MODULES[module]).items()
]
DOCUMENTED = [p for p in NAMES if not is_constant(p.values[1])]
PATTERN = bmrpruner.sparsity_types.NByM(2, 4)  # a tuple that is no literal
CONSTANTS = [p for p in NAMES if is_constant(p.values[1])]


def test_the_modules_are_those_without_underscore():
    folder = ROOT / "bmrpruner"
    found = {path.stem for path in [*folder.glob("*.py"), *folder.glob("[a-z]*/")]}
    public = {name for name in found if not name.startswith("_")} - {"cli", "projects"}
    below = {f"bmrpruner.{name}" for name in (*public, "study.idx", "study.models")}
    assert set(MODULES) == {"bmrpruner", *below}


@pytest.mark.parametrize(("name", "value"), DOCUMENTED)
def test_a_name_has_a_docstring_with_an_example(name, value):
    text = value.__doc__ or ""  # not inspect.getdoc, which takes a base class's
    assert re.match(r"\S.*\.(\n\n|$)", text.strip()), f"{name}: the first line says what it does"
    if not inspect.ismodule(value):
        assert re.search(r"^ *Example:\n(.*\n)*? *>>> ", text, re.MULTILINE), name


@pytest.mark.parametrize(("name", "value"), CONSTANTS)
def test_a_constant_has_a_text_with_an_example_that_runs(name, value):
    text = constants()[name]
    assert first_line(name, value).endswith(".")
    assert "\nExample:\n  >>> " in text
    names = dict(vars(MODULES[home(name, value).rpartition(".")[0]]))
    test = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize(("name", "value"), DOCUMENTED)
def test_an_entry_belongs_to_a_public_module(name, value):
    if inspect.ismodule(value):
        return
    module, _, own = home(name, value).rpartition(".")
    assert names_of(MODULES[module])[own] is value


def test_an_entry_is_where_the_name_is_defined():
    found = {name: home(name, getattr(bmrpruner, name)) for name in ("SparseState", "ivon", "SET")}
    assert found == {
        "SparseState": "bmrpruner.sparse_state.SparseState",
        "ivon": "bmrpruner.optimizers.ivon",
        "SET": "bmrpruner.algorithms.SET",
    }
    other = bmrpruner.AbosluteZscorePruning
    assert home("AbosluteZscorePruning", other) == "bmrpruner.algorithms.SNRPruning"
    assert first_line("AbosluteZscorePruning", other) == "Another name of `SNRPruning`."


def test_signatures_hold_only_plain_defaults():
    """A default that is an object would show its address, or how its library prints it."""

    def example(a, /, b=1.5, c="x", d=None, e=(), *rest, f=PATTERN, g=len, **more):
        return a, b, c, d, e, rest, f, g, more

    def only_keyword(a, *, b=PATTERN):
        return a, b

    assert signature(example) == "(a, b=1.5, c='x', d=None, e=(), *rest, f=…, g=…, **more)"
    assert signature(only_keyword) == "(a, *, b=…)"
    assert signature(bmrpruner.MagnitudePruning) == "(**fields)"
    shown = [signature(p.values[1]) for p in DOCUMENTED if not inspect.ismodule(p.values[1])]
    assert not any(re.search(r"0x[0-9a-f]{4}|<[a-z]", text) for text in shown)
