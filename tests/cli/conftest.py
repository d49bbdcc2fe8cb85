"""A directory to run commands in."""

import pytest

from tests.cli.commands import write_idx, write_posterior


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A directory with a posterior and test data, to be in."""
    write_posterior(tmp_path / "posterior.npz")
    write_idx(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path
