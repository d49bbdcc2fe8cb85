"""Replicas of data-parallel training with IVON stay equal: four devices of one process."""

import os

import pytest

from tests.sharding.test_sharding import start

pytestmark = pytest.mark.slow


def test_replicas_stay_equal():
    process = start("replicas", 4, flags=os.environ.get("XLA_FLAGS", ""))
    try:
        assert process.wait(timeout=600) == 0
    finally:
        process.kill()
        process.wait()
