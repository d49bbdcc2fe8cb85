"""Replicas of data-parallel training with IVON stay equal: four devices of one process."""

from tests.sharding.test_sharding import start


def test_replicas_stay_equal():
    process = start("replicas", 4)
    try:
        assert process.wait(timeout=600) == 0
    finally:
        process.kill()
        process.wait()
