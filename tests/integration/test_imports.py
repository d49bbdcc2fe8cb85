"""What `import bmrpruner` costs, and what is said about extras that are not installed."""

import ast
import importlib
import os
import subprocess
import sys
import tomllib

import jax
import numpy as np
import pytest
from repository import ROOT

import bmrpruner
from bmrpruner import files, structure, study

SECONDS = """
import time, optax
before = time.process_time()
import bmrpruner
print(time.process_time() - before)
"""
# What only a part of the library needs; none of it comes with optax.
HEAVY = ("scipy.optimize", "scipy.linalg", "scipy.sparse", "ml_collections", "matplotlib", "tyro")


def printed(code):
    """What a fresh process prints that keeps bytecode, as an installed package has it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    ).stdout


@pytest.mark.slow
def test_import_takes_a_fifth_of_a_second_more_than_optax():
    assert min(float(printed(SECONDS)) for _ in range(3)) < 0.2


@pytest.mark.slow
def test_import_leaves_heavy_modules_alone():
    code = "import sys, optax; before = set(sys.modules); import bmrpruner; "
    loaded = printed(code + "print(*set(sys.modules) - before, sep='\\n')").split()
    assert "bmrpruner.api" in loaded
    assert not {"bmrpruner.study", "bmrpruner.cli", *HEAVY} & set(loaded)


def test_study_is_found_and_others_are_not():
    assert bmrpruner.study is study
    with pytest.raises(AttributeError, match="'bmrpruner' has no attribute 'studies'"):
        _ = bmrpruner.studies


def small_network():
    params = {"w1": np.array([[1.0, 0.0]], "f"), "w2": np.ones((2, 1), "f")}
    inputs = np.ones((5, 1), "f")
    return structure.compact(lambda p, x: jax.numpy.sin(x @ p["w1"]) @ p["w2"], params, inputs)


def save_function(path):
    structure.save_function(path / "small.jaxexport", small_network(), np.ones((5, 1), "f"))


def load_function(path):
    (path / "small.jaxexport").write_bytes(b"something")
    structure.load_function(path / "small.jaxexport")


def read_safetensors(path):
    (path / "net.safetensors").write_bytes(b"something")
    files.load(path / "net.safetensors")


def activation_sparsity(path):
    importlib.reload(importlib.import_module("bmrpruner.algorithms.activation_sparsity"))


def read_orbax(path):
    (path / "net").mkdir()
    files.load(path / "net")


NEEDS = {
    "save_function": (save_function, "flatbuffers", "export"),
    "load_function": (load_function, "flatbuffers", "export"),
    "save .safetensors": (
        lambda path: files.save(path / "net.safetensors", {"w": np.ones(3)}),
        "safetensors",
        "safetensors",
    ),
    "load .safetensors": (read_safetensors, "safetensors", "safetensors"),
    "load orbax": (read_orbax, "orbax", "orbax"),
    "activation sparsity": (activation_sparsity, "flax", "flax"),
    "pictures": (lambda path: study.draw_shapes([]), "matplotlib", "plot"),
}


@pytest.mark.parametrize("name", NEEDS)
def test_an_extra_that_is_not_installed_is_named(name, tmp_path, monkeypatch):
    call, package, extra = NEEDS[name]
    for module in (package, *[m for m in sys.modules if m.startswith(f"{package}.")]):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{package} is not installed: .*bmrpruner\[{extra}\]"):
        call(tmp_path)


def outside_imports(tree):
    """The packages that a module imports, but for Python's own and ours."""
    nodes = list(ast.walk(tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"bmrpruner"}


def test_extras_are_imported_by_what_names_them():
    core = {"jax", "optax", "numpy", "ml_collections", "scipy"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert len(project["dependencies"]) == len(core)
    named = set()
    for path in (ROOT / "bmrpruner").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        of_command_line = {"tyro", "rich", "yaml"} if path.parent.name == "cli" else set()
        assert outside_imports(tree) <= core | of_command_line, path
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        optional = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "optional"]
        named |= {call.args[1].value for call in optional}
    assert named == {extra for _, _, extra in NEEDS.values()}
    assert named <= set(project["optional-dependencies"])
