"""The pages with code: it parses, and names only what the library has. The build runs it."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import bmrpruner

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "\n```{code-cell}" in path.read_text())


def cells(page):
    found = re.findall(r"^```\{code-cell\}.*?\n(.*?)^```$", page.read_text(), re.DOTALL | re.M)
    without_yaml = (re.sub(r"\A---\n.*?\n---\n", "", cell, flags=re.DOTALL) for cell in found)
    return [re.sub(r"\A(:\w+:.*\n)+", "", cell) for cell in without_yaml]


def chains(tree):
    """Dotted names such as `bmrpruner.metrics.ece`, as lists of their parts."""
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name):
            yield [node.id, *reversed(parts)]


def test_there_are_pages():
    assert len(PAGES) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_exist(page):
    trees = [ast.parse(cell) for cell in cells(page)]
    names = [chain for tree in trees for chain in chains(tree) if chain[0] == "bmrpruner"]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    own = [node for node in imported if node.module.split(".")[0] == "bmrpruner"]
    as_jaxpruner = [node for node in nodes if isinstance(node, ast.Import)]
    assert names or own or any(a.name == "bmrpruner" for node in as_jaxpruner for a in node.names)
    for node in own:
        module = importlib.import_module(node.module)
        assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
    for chain in names:
        found = bmrpruner
        for part in chain[1:]:
            if not (inspect.ismodule(found) or inspect.isclass(found)):
                break
            assert hasattr(found, part), ".".join(chain)
            found = getattr(found, part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_are_described(page):
    text = page.read_text()
    assert text.count("plt.subplots(") == text.count("\n    alt: ")
