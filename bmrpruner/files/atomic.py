"""Write a file as a whole or not at all."""

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
      force: Replace a file that is there; otherwise refuse to. A symbolic link is replaced itself,
        and the file that it points to stays as it is.

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
        raise FileNotFoundError(
            f"{path}: expected a directory {path.parent} to write to, got none; make it first."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: Path, force: bool) -> None:
    """Check that a file may be made under a name.

    Args:
      path: The file to make.
      force: Whether a file or a symbolic link that is there may be replaced.

    Raises:
      FileExistsError: If `path` is a directory, or exists and must not be replaced. A symbolic link
        exists even if what it points to does not.

    Example:
      >>> refuse_existing(Path('/'), force=True)
      Traceback (most recent call last):
      FileExistsError: /: expected the name of a file, got a directory.
    """
    if path.is_dir():
        raise FileExistsError(f"{path}: expected the name of a file, got a directory.")
    if os.path.lexists(path) and not force:
        raise FileExistsError(
            f"{path}: expected a new name, got one that exists; write elsewhere, or replace it "
            "with --force."
        )
