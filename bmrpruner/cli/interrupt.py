"""Ctrl-C between two steps of a long job."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Yields a function to call after every step: it raises if there was a Ctrl-C.

    A second Ctrl-C does not wait. Raised anywhere, an interrupt would be lost where Python cannot
    raise, such as in the callback by which JAX takes part in garbage collection.
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
