"""Parse words on a command line, in a file or in YAML into a command with its options."""

from __future__ import annotations

import contextlib
import io
import itertools
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro


class UsageError(ValueError):
    """Raised for words that cannot be parsed."""


def parse(commands: Mapping[str, Callable[..., Any]], words: Sequence[str], about: str) -> Any:
    """Choose a command and fill in its options.

    Args:
      commands: Dataclasses by name.
      words: The arguments; `@FILE` and `--config FILE` among them stand for a file's contents.
      about: Describes the program.

    Returns:
      An instance of the chosen dataclass.

    Raises:
      UsageError: If the words are no command with its options.
      SystemExit: After `--help`.
    """
    words = expand(words)
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            return tyro.extras.subcommand_cli_from_dict(
                dict(commands), prog="bmrpruner", description=about, args=words
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        command = "".join(f"{word} " for word in words[:1] if word in commands)
        raise UsageError(
            f"{_said(complaints.getvalue())} (see bmrpruner {command}--help)"
        ) from None


def expand(words: Sequence[str]) -> list[str]:
    """Replace `@FILE` and `--config FILE` by the words in these files.

    Options after `--config` and `@FILE` override theirs.

    Args:
      words: The arguments.

    Returns:
      The arguments without `@FILE` and `--config`.

    Raises:
      UsageError: If a file cannot be read, or is not YAML.

    Example:
      >>> expand(['inspect', 'net.npz', '--json'])
      ['inspect', 'net.npz', '--json']
    """
    expanded: list[str] = []
    for word in words:
        if word.startswith("@"):
            expanded += _from_text(word[1:])
        elif word.startswith("--config="):
            expanded += word.split("=", 1)
        else:
            expanded.append(word)
    if "--config" not in expanded:
        return expanded
    at = expanded.index("--config")
    if at + 1 == len(expanded):
        raise UsageError("config: expected the name of a YAML file, got nothing.")
    rest = expanded[:at] + expanded[at + 2 :]
    return rest[:1] + _from_yaml(expanded[at + 1]) + rest[1:]


def comma_separated(kind: Callable[[str], Any], metavar: str) -> Any:
    """Make the tyro specification of a list given as one word, such as `0,.5,.9`.

    Args:
      kind: Reads one item.
      metavar: Stands for the value in the help.

    Example:
      >>> comma_separated(float, 'X,...').instance_from_str(['0,.5'])
      (0.0, 0.5)
    """
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: tuple(kind(w) for w in words[0].split(",") if w),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


def maybe(kind: Callable[[str], Any], metavar: str) -> Any:
    """Make the tyro specification of a value that may be left out.

    Args:
      kind: Reads the value.
      metavar: Stands for the value in the help.

    Example:
      >>> maybe(float, 'X').instance_from_str(['.5'])
      0.5
    """
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: kind(words[0]),
        is_instance=lambda value: value is None or isinstance(value, int | float),
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )


def named_number(word: str) -> tuple[str, float]:
    """Split `'snr=0.5'` into a name and a number.

    Raises:
      ValueError: If it is something else.

    Example:
      >>> named_number('snr=0.5')
      ('snr', 0.5)
    """
    name, _, number = word.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise ValueError(f"expected algorithm=number, got {word!r}") from None


def _from_text(name: str) -> list[str]:
    text = _text(name)
    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        raise UsageError(f"{name}: expected words as in a shell, got {error}") from error


def _from_yaml(name: str) -> list[str]:
    """Read options from a mapping: lists become words with commas, true and false flags."""
    import yaml

    text = _text(name)
    try:
        options = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{name}: expected YAML, got {error}") from error
    if not isinstance(options, dict):
        kind = type(options).__name__
        raise UsageError(f"{name}: expected a mapping of options to values, got a {kind}.")
    words: list[str] = []
    for key, value in options.items():
        option = f"--{str(key).replace('_', '-')}"
        if key in ("file", "directory"):
            words.append(str(value))
        elif isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        elif value is not None:
            words += [option, _word(value)]
    return words


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={number}" for key, number in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _text(name: str) -> str:
    try:
        return Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: expected a text file, got {error}") from error


def _said(box: str) -> str:
    """Take the text out of a box that tyro drew: what is between its title and the next line."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    lines = [line if line.strip("-") else "" for line in lines]
    return " ".join(itertools.takewhile(bool, itertools.dropwhile(lambda x: not x, lines[1:])))
