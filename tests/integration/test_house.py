"""The repository: imports without a cycle, small files, a map that is true, links that lead."""

import ast
import graphlib
import re
from pathlib import Path

import pytest
from repository import ROOT, tracked

import bmrpruner

PACKAGE = ROOT / "bmrpruner"
LONGEST = 300  # lines


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree, modules):
    """The modules of ours that a module imports anywhere: `from package import module` is one."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules
            found |= {node.module} if names - modules else set()
    return found & modules


def import_graph():
    trees = {module_name(p): ast.parse(p.read_text("utf-8")) for p in PACKAGE.rglob("*.py")}
    return {name: imported(tree, set(trees)) for name, tree in trees.items()}


def test_imports_have_no_cycle():
    graph = import_graph()
    assert "bmrpruner._tree" in graph["bmrpruner.utils"]
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises a CycleError
    assert set(order) == set(graph)


def test_a_cycle_is_noticed():
    modules = {"a", "a.b", "a.c"}
    late = ast.parse("def f():\n  from a import b")
    graph = {"a.c": imported(late, modules), "a.b": imported(ast.parse("import a.c"), modules)}
    assert graph == {"a.c": {"a.b"}, "a.b": {"a.c"}}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph).prepare()


def test_the_registry_imports_nothing_of_ours():
    assert import_graph()["bmrpruner.registry"] == set()


def test_files_are_short():
    lengths = {
        name: len((ROOT / name).read_text("utf-8").splitlines())
        for name in tracked()
        if name.endswith(".py")
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


def test_legends_have_a_place():
    """Matplotlib's search for the best one warns where it takes long, as on a busy machine."""
    sources = [ROOT / name for name in tracked() if name.endswith((".py", ".md"))]
    calls = [
        f"{path.name}: {call}"
        for path in sources
        for call in re.findall(r"\.legend\([^)]*\)", path.read_text("utf-8"))
    ]
    assert len(calls) > 10
    assert [call for call in calls if "loc=" not in call] == []


def compared_texts(tree):
    """Texts that something is compared with; True beside the prefixes and suffixes asked for."""
    for node in ast.walk(tree):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        asks_end = is_call and node.func.attr in ("startswith", "endswith")
        if isinstance(node, ast.Compare | ast.match_case) or asks_end:
            parts = node.args if asks_end else [getattr(node, "pattern", node)]
            constants = [c for part in parts for c in ast.walk(part) if isinstance(c, ast.Constant)]
            yield from ((c.value, asks_end) for c in constants if isinstance(c.value, str))


def named_algorithms(tree):
    """The compared texts that are a registered name, or the beginning or end of one."""
    names = bmrpruner.api.ALGORITHMS
    return {
        text
        for text, is_end in compared_texts(tree)
        if text in names or (is_end and any(n.startswith(text) or n.endswith(text) for n in names))
    }


def test_the_configuration_compares_no_algorithm_s_name():
    assert named_algorithms(ast.parse((PACKAGE / "api.py").read_text("utf-8"))) == set()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("name == 'rigl'", {"rigl"}),
        ("name in ('set', 'other')", {"set"}),
        ("name.startswith('global_')", {"global_"}),
        ("name.endswith(('_ste', 'x'))", {"_ste"}),
        ("match name:\n  case 'bmr' | 'x':\n    pass", {"bmr"}),
        ("settings['rigl'] = 'set'", set()),
        ("dist_type == 'erk'", set()),
    ],
)
def test_a_comparison_with_a_name_is_noticed(code, found):
    assert named_algorithms(ast.parse(code)) == found


def mapped():
    """The paths in the first column of the map in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    table = re.search(r"^## The modules\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)[1]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return [path for row in rows for path in re.findall(r"`([^`]+)`", row)]


def test_what_the_map_names_is_there():
    missing = [p for p in mapped() if not ((PACKAGE / p).exists() or (ROOT / p).exists())]
    assert missing == []


def test_the_map_names_every_module_and_package():
    files = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert (files | folders) - set(mapped()) == set()


def test_the_map_names_every_folder_of_code():
    folders = {f"{name.split('/')[0]}/" for name in tracked() if re.match(r"[^.].*/.*\.py$", name)}
    assert folders - set(mapped()) - {"bmrpruner/"} == set()


def linked(text):
    """The relative links and pictures of a Markdown text, without those in blocks of code."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"\]\(([^)\s]+)\)|<(?:img|a)\b[^>]*\b(?:src|href)=\"([^\"]+)\"", prose)
    targets = [(target or tag).partition("#")[0] for target, tag in found]
    return {target for target in targets if target and not re.match(r"\w+:", target)}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "MIGRATING.md"])
def test_relative_links_lead_to_tracked_files(name):
    files = set(tracked())
    folders = {str(folder) for file in files for folder in Path(file).parents}
    targets = linked((ROOT / name).read_text("utf-8"))
    assert {t for t in targets if t.rstrip("/") not in files | folders} == set()


def test_links_are_found():
    text = '[a](b.md#c) ![d](e/f.png) <img src="g.svg"> [h](https://i) [j](#k)\n```\nl[0](m)\n```\n'
    assert linked(text) == {"b.md", "e/f.png", "g.svg"}
