"""Write reference.md: every public name by module, with its signature and what it does.

python docs/make_reference.py            write the file
python docs/make_reference.py --check    fail if the file is not current
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import bmrpruner
from bmrpruner.files import atomic_write

TARGET = Path(__file__).with_name("reference.md")
# The command line is documented by its --help, JaxPruner's import paths by MIGRATING.md.
NOT_HERE = ("cli", "projects")
HEAD = """\
# Reference

Every public name, by module. `help(name)` shows its arguments, errors and an example.

`=…` is a default that is not a plain number or string. `**fields` are those of `BaseUpdater`.
Written by `python docs/make_reference.py`.
"""


def modules() -> list[ModuleType]:
    """The public modules: the package, those below it, and those that a package's `__all__` names.

    Returns:
      The modules, in the order of their names.
    """
    found = pkgutil.iter_modules(bmrpruner.__path__, "bmrpruner.")
    names = [m.name for m in found if not m.name.rpartition(".")[2].startswith("_")]
    public = [importlib.import_module(n) for n in names if not n.endswith(NOT_HERE)]
    below = [value for m in public for value in names_of(m).values() if inspect.ismodule(value)]
    return [bmrpruner, *sorted((*public, *below), key=lambda module: module.__name__)]


def names_of(module: ModuleType) -> dict[str, Any]:
    """The public names of a module with their values: `__all__`, or what is defined in it.

    Args:
      module: An imported module.

    Returns:
      Values by name, in alphabetical order.
    """
    defined = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    names = getattr(module, "__all__", defined)
    return {name: getattr(module, name) for name in sorted(names, key=str.lower)}


def is_constant(value: Any) -> bool:
    """Whether a value is neither a module nor a class nor a function, so has no docstring.

    Args:
      value: What a public name stands for. Compiled functions are told by what they wrap.
    """
    has_docstring = inspect.ismodule(value) or inspect.isclass(value)
    return not (has_docstring or inspect.isroutine(inspect.unwrap(value)))


def constants() -> dict[str, str]:
    """Read the texts below the assignments of constants.

    Returns:
      Texts by the names of the constants.
    """
    texts: dict[str, str] = {}
    for path in sorted(Path(bmrpruner.__path__[0]).rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement, after in itertools.pairwise(body):
            match statement, after:
                case (
                    ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)),
                    ast.Expr(value=ast.Constant(str(text))),
                ):
                    texts[name] = text
    return texts


def signature(value: Any) -> str:
    """The parameters of a function or class with their defaults, without annotations.

    Args:
      value: A function or a class.

    Returns:
      Text such as `(params, sparsity=0.5)`.
    """
    parameters = dict(inspect.signature(value).parameters)
    is_updater = inspect.isclass(value) and issubclass(value, bmrpruner.BaseUpdater)
    if is_updater and value is not bmrpruner.BaseUpdater:
        base = inspect.signature(bmrpruner.BaseUpdater).parameters
        own = {n: p for n, p in parameters.items() if n not in base or p.default != base[n].default}
        return f"({', '.join([*_written(own), '**fields'])})"
    return f"({', '.join(_written(parameters))})"


def _written(parameters: dict[str, inspect.Parameter]) -> list[str]:
    words = []
    for name, parameter in parameters.items():
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        if parameter.kind is parameter.KEYWORD_ONLY and not any(w.startswith("*") for w in words):
            words.append("*")
        words.append(stars.get(parameter.kind, "") + name + _default(parameter))
    return words


def _default(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty:
        return ""
    is_plain = default is None or type(default) in (bool, int, float, str)
    return f"={default!r}" if is_plain or default == () else "=…"


def entry(name: str, value: Any, texts: dict[str, str]) -> str:
    """One line of the reference.

    Args:
      name: A public name.
      value: What it stands for.
      texts: Of the constants.

    Returns:
      An item of a Markdown list.
    """
    if inspect.ismodule(value):
        anchor = value.__name__.replace(".", "")
        is_here = not value.__name__.endswith(NOT_HERE)
        shown = f"[`{name}`](#{anchor})" if is_here else f"`{name}`"
        return f"- {shown}: {_first_line(value.__doc__)}"
    if is_constant(value):
        return f"- `{name}`: {_first_line(texts.get(name))}"
    text = _first_line(value.__doc__)
    if value.__name__ != name:
        text = f"Another name of `{value.__name__}`."
    return f"- `{name}{signature(value)}`: {text}"


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def reference() -> str:
    """The text of the reference."""
    texts = constants()
    sections = [HEAD]
    for module in modules():
        lines = [entry(name, value, texts) for name, value in names_of(module).items()]
        sections.append(
            f"## {module.__name__}\n\n{_first_line(module.__doc__)}\n\n" + "\n".join(lines) + "\n"
        )
    return "\n".join(sections)


def main() -> int:
    """Write the file, or with `--check` compare it; the exit code is 1 if it is not current."""
    text = reference()
    if sys.argv[1:] == ["--check"]:
        is_current = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text
        if not is_current:
            print(f"{TARGET}: not current; run python docs/make_reference.py", file=sys.stderr)
        return 0 if is_current else 1
    if sys.argv[1:]:
        print(f"options: expected --check or none, got {' '.join(sys.argv[1:])}", file=sys.stderr)
        return 2
    with atomic_write(TARGET, force=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
