"""Wrapped steps on meshes: eight devices of one process, and two processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def start(module, devices, *args, flags=""):
    """A process of its own, as the number of devices is fixed when JAX starts."""
    flags += f" --xla_force_host_platform_device_count={devices}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # which compiles in less time
    command = [sys.executable, "-W", "error", "-m", f"tests.sharding.{module}", *map(str, args)]
    return subprocess.Popen(command, env=env, cwd=ROOT)


def test_a_mesh_equals_one_device():
    process = start("mesh", 8)
    try:
        assert process.wait(timeout=600) == 0
    finally:
        process.kill()
        process.wait()


def test_two_processes_equal_one():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start("process", 4, address, i) for i in range(2)]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
