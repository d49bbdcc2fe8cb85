"""The lowest versions that are tested are those that pyproject.toml allows."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_lowest_tested_versions_are_the_lowest_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    required = {name for group in groups for name in group if not name.startswith("bmrpruner")}
    lowest = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    assert lowest == sorted(name.replace(">=", "==") for name in required)
