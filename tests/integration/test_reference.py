"""Every public name has a docstring with an example, and a line in docs/reference.md."""

import inspect
import re
import runpy

import pytest
from repository import ROOT

import bmrpruner

SCRIPT = ROOT / "docs" / "make_reference.py"
MAKE = runpy.run_path(str(SCRIPT))
TEXT = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
MODULES = {module.__name__: module for module in MAKE["modules"]()}
NAMES = [
    pytest.param(name, value, id=f"{module}.{name}")
    for module in MODULES
    for name, value in MAKE["names_of"](MODULES[module]).items()
]
DOCUMENTED = [p for p in NAMES if not MAKE["is_constant"](p.values[1])]
PATTERN = bmrpruner.sparsity_types.NByM(2, 4)  # a tuple that is no literal
CONSTANTS = [p for p in NAMES if MAKE["is_constant"](p.values[1])]


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
def test_a_constant_has_a_text_below_it(name, value):
    assert MAKE["constants"]()[name].endswith(".")


@pytest.mark.parametrize("module", MODULES)
def test_every_name_has_a_line(module):
    section = SECTIONS[module]
    for name in MAKE["names_of"](MODULES[module]):
        line = re.search(rf"^- \[?`{name}[`(].*: (.+)$", section, re.MULTILINE)
        assert line, name


def test_the_file_is_current():
    assert MAKE["reference"]() == TEXT, "run python docs/make_reference.py"


def test_signatures_hold_only_plain_defaults():
    """A default that is an object would show its address, or how its library prints it."""

    def example(a, /, b=1.5, c="x", d=None, e=(), *rest, f=PATTERN, g=len, **more):
        return a, b, c, d, e, rest, f, g, more

    def only_keyword(a, *, b=PATTERN):
        return a, b

    assert MAKE["signature"](example) == "(a, b=1.5, c='x', d=None, e=(), *rest, f=…, g=…, **more)"
    assert MAKE["signature"](only_keyword) == "(a, *, b=…)"
    assert MAKE["signature"](bmrpruner.MagnitudePruning) == "(**fields)"
    assert not re.search(r"0x[0-9a-f]{4}|<[a-z]", TEXT)


def test_a_file_that_is_not_current_is_told(tmp_path, monkeypatch, capsys):
    copy = tmp_path / "make_reference.py"
    copy.write_text(SCRIPT.read_text(encoding="utf-8"), encoding="utf-8")
    main = runpy.run_path(str(copy))["main"]
    monkeypatch.setattr("sys.argv", ["make_reference.py", "--check"])
    assert main() == 1
    assert "not current" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["make_reference.py"])
    assert main() == 0
    assert (tmp_path / "reference.md").read_text(encoding="utf-8") == TEXT
    assert [path.name for path in tmp_path.glob("*.md*")] == ["reference.md"]
    monkeypatch.setattr("sys.argv", ["make_reference.py", "--check"])
    assert main() == 0
    monkeypatch.setattr("sys.argv", ["make_reference.py", "--chek"])
    assert main() == 2
