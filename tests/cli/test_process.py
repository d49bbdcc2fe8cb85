"""The command as a process: interrupts, and packages that are missing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bmrpruner.cli import interrupt
from tests.cli.commands import SWEEP, run_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def command(*words, ahead=(), **options):
    """The command as a process that imports this tree, and first what is in `ahead`."""
    path = os.pathsep.join(map(str, [*ahead, ROOT]))
    return subprocess.Popen(
        [sys.executable, "-m", "bmrpruner", *words],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_control_c_leaves_what_is_done_and_the_rest_is_resumed(work, capsys):
    many = ("--sparsities", ",".join(str(i / 200) for i in range(200)), "--algorithms", "snr")
    process = command(*SWEEP, *many, cwd=work)
    results = work / "results" / "results.json"
    deadline = time.monotonic() + 60
    while not results.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert "interrupted; what is done is in results, --resume goes on" in last
    assert "Traceback" not in err
    left = json.loads(results.read_text())
    assert 0 < len(left["points"]) < 200
    assert [path.name for path in results.parent.iterdir()] == ["results.json"]
    few = ("--sparsities", "0,.005", "--algorithms", "snr")
    resumed = run_json(capsys, *SWEEP, *few, "--resume")
    assert resumed["complete"]
    assert resumed["points"][0] == left["points"][0]


def test_a_second_control_c_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with interrupt.between_steps() as check:
        check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_module_runs(work):
    process = command("inspect", "posterior.npz", "--json", cwd=work)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["weights"] == 352


def test_without_the_extra_it_is_named(work):
    code = "import sys; sys.modules['tyro'] = None; import bmrpruner.__main__ as m; m.main()"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert process.returncode == 2
    assert process.stderr == (
        "bmrpruner: the command line needs tyro: pip install 'bmrpruner[cli]'.\n"
    )


def test_control_c_during_import_ends_in_one_line(tmp_path):
    # A package that the command line imports, and that is interrupted just then.
    (tmp_path / "tyro.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    process = command("inspect", "nowhere.npz", ahead=[tmp_path], cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert err == "bmrpruner: interrupted.\n"


def test_control_c_while_the_package_itself_is_imported(tmp_path):
    """The installed command starts outside of the package."""
    (tmp_path / "optax.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    code = "import bmrpruner_command; bmrpruner_command.main()"
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert process.returncode == 2
    assert process.stderr == "bmrpruner: interrupted.\n"
