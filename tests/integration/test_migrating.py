"""MIGRATING.md: its code runs and prints what it says, and every name in it exists."""

import importlib
import re
from pathlib import Path

import pytest

import bmrpruner

pytestmark = pytest.mark.slow

TEXT = (Path(__file__).parents[2] / "MIGRATING.md").read_text()
TABLE = TEXT[TEXT.index("## Every name") :]
ROWS = re.findall(r"^\| `P\.([\w.]+)` \| (.*) \|$", TABLE, re.MULTILINE)


def test_the_example_runs(capsys):
    block = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
    exec(block, {})
    printed = capsys.readouterr().out
    promised = re.search(r"# (\d+) of 64, and (\d+) biases", block)
    assert float(printed) == int(promised[1]) + int(promised[2])


@pytest.mark.parametrize(("module", "names"), ROWS)
def test_every_name_exists(module, names):
    found = importlib.import_module(f"bmrpruner.{module}")
    for name in re.findall(r"`(\w+)`", names):
        assert hasattr(found, name), name


def test_paths_under_projects_are_re_exports():
    for module, names in ROWS:
        if module.startswith("projects."):
            old = importlib.import_module(f"bmrpruner.{module}")
            new = importlib.import_module(f"bmrpruner.algorithms.{module.rpartition('.')[2]}")
            for name in re.findall(r"`(\w+)`", names):
                assert getattr(old, name) is getattr(new, name), name


def test_the_first_block_is_at_the_top():
    first = TABLE[: TABLE.index("| | |")]
    for name in re.findall(r"`(\w+)`", first.split("|---|---|")[1].replace("`P.", "")):
        assert hasattr(bmrpruner, name), name


def test_registry_names():
    names = re.findall(r"`([\w-]+)`", TABLE[TABLE.index("Registry names:") :].split(". The")[0])
    assert len(names) == 14
    assert set(names) <= set(bmrpruner.all_algorithm_names())
