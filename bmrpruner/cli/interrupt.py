"""Ctrl-C that waits until the current step of a long job is done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Let a Ctrl-C wait until the current step is done; a second one does not wait.

    An interrupt raised in the middle of a step may be lost: Python cannot raise in callbacks such
    as the one by which JAX takes part in garbage collection.

    Yields:
      A function to call after every step: it raises a KeyboardInterrupt if there was a Ctrl-C.

    Example:
      >>> with between_steps() as check:
      ...     for _ in range(3):
      ...         check()
    """
    asked = threading.Event()

    def ask(*_: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
