"""Running the examples as a user does."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *options, cwd):
    """The finished process of an example."""
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *options],
        cwd=cwd,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # quick to compile
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def check_refused(name, *options, cwd, named):
    """The options end in one line that names what is wrong, and nothing is written.

    The script runs within this process, as starting another takes seconds.
    """
    errors = io.StringIO()
    argv = mock.patch.object(sys, "argv", [name, *options])
    path = mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path])
    exit_ = pytest.raises(SystemExit, match="2")
    with contextlib.chdir(cwd), argv, path, contextlib.redirect_stderr(errors), exit_:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert named in errors.getvalue()
    assert len(errors.getvalue().splitlines()) == 1
    assert list(cwd.iterdir()) == []
