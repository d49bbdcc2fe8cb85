"""The source distribution holds what the repository tracks: tests, examples and documents."""

import fnmatch

from repository import ROOT, tracked


def is_in_manifest(name, lines):
    """Whether an `include` or a `graft` line of MANIFEST.in names the file."""
    for command, *patterns in map(str.split, lines):
        if command == "graft":
            patterns = [f"{folder}/*" for folder in patterns]
        elif command != "include" or "/" in name:  # setuptools' patterns stay in their folder
            continue
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return True
    return False


def test_every_tracked_file_is_in_the_manifest():
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()
    # The package is found by setuptools; names with a dot serve the repository alone.
    by_itself = (".", "bmrpruner/", "bmrpruner_command.py", "MANIFEST.in")
    missing = [
        name
        for name in tracked()
        if not name.startswith(by_itself) and not is_in_manifest(name, lines)
    ]
    assert missing == []


def test_what_is_not_named_is_noticed():
    lines = ["include *.md run.sh", "graft tests"]
    names = ("README.md", "run.sh", "tests/cli/test_cli.py", "docs/index.md", "testsuite/a.py")
    assert [is_in_manifest(name, lines) for name in names] == [True, True, True, False, False]
