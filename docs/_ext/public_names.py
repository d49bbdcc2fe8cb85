"""The public names of the package: the one list from which the reference is written and checked."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import bmrpruner

# The command line is documented by its --help, JaxPruner's import paths by MIGRATING.md.
NOT_HERE = ("cli", "projects")


@functools.cache
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


@functools.cache
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


def home(name: str, value: Any) -> str:
    """Where a public name is shown in full.

    Args:
      name: A public name.
      value: What it stands for.

    Returns:
      The name with its module: the one that defines it, else the first that has it.
    """
    own = name if is_constant(value) else value.__name__
    found = [m.__name__ for m in modules() if names_of(m).get(own) is value]
    defined = str(getattr(value, "__module__", None))
    inside = [m for m in found[1:] if f"{defined}.".startswith(f"{m}.")]
    return f"{(inside or found[1:] or found)[0]}.{own}"


def first_line(name: str, value: Any) -> str:
    """What a public name is, in one line.

    Args:
      name: A public name.
      value: What it stands for.
    """
    if is_constant(value):
        return constants()[name].partition("\n")[0]
    text = (value.__doc__ or "").strip().partition("\n")[0]
    is_other = not inspect.ismodule(value) and value.__name__ != name
    return f"Another name of `{value.__name__}`." if is_other else text
