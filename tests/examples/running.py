"""Running the examples as a user does."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *options, cwd):
    """The finished process of an example."""
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *options],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def check_refused(name, *options, cwd, named):
    """The options end in one line that names what is wrong, and nothing is written."""
    finished = run(name, *options, cwd=cwd)
    assert finished.returncode == 2
    assert named in finished.stderr
    assert "Traceback" not in finished.stderr
    assert list(cwd.iterdir()) == []
