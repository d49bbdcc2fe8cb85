"""Versions and extras: the same wherever they are written."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_lowest_tested_versions_are_the_lowest_allowed():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    required = {name for group in groups for name in group if not name.startswith("bmrpruner")}
    lowest = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    assert lowest == sorted(name.replace(">=", "==") for name in required)


def test_the_version_is_that_of_the_citation_and_of_the_newest_changes():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    cited = re.search(r"^version: (\S+)$", citation, re.MULTILINE)
    assert (newest[1], cited[1]) == (PROJECT["version"], PROJECT["version"])


def test_every_extra_is_documented():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text.split("## Extras")[1].split("\n## ")[0], re.MULTILINE)
    assert sorted(rows) == sorted(PROJECT["optional-dependencies"])
