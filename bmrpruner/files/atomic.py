"""Files that are there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: Path | str, force: bool = False) -> Iterator[Path]:
    """Give a temporary name to write to; rename it to `path` at the end, remove it on failure.

    Args:
      path: The file to make.
      force: Replace a file that is there; otherwise refuse to.

    Yields:
      The temporary path, in the directory of `path`.

    Raises:
      FileExistsError: If `path` exists, unless `force`.
      FileNotFoundError: If the directory does not.

    Example:
      >>> import tempfile
      >>> target = Path(tempfile.mkdtemp(), 'numbers.txt')
      >>> with atomic_write(target) as temporary:
      ...     _ = temporary.write_text('1 2 3')
      >>> target.read_text()
      '1 2 3'
    """
    path = Path(path)
    refuse_existing(path, force)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no directory {path.parent}; make it first.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: Path, force: bool) -> None:
    """Raise a FileExistsError if `path` is there and must not be replaced."""
    if path.is_dir():
        raise FileExistsError(f"{path} is a directory; name a file.")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; write elsewhere, or replace it with --force.")
