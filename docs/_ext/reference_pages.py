"""Write the pages of the reference from the list of public names, before Sphinx reads them.

A page per module says in one line each what its names are, and shows those that belong to it in
full, with their docstrings and examples. A name that the built pages lack is a warning;
`bash run.sh docs` takes warnings for errors.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

from public_names import (
    NOT_HERE,
    constants,
    first_line,
    home,
    is_constant,
    modules,
    names_of,
    signature,
)
from sphinx.util import logging

import bmrpruner

logger = logging.getLogger(__name__)
FOLDER = "reference"
HIDDEN = "\ue000"
HEAD = """\
Reference
=========

Every public name, by module. What a user types is at the top, in :doc:`bmrpruner`.

Of a default that is not a plain number or string the signatures show ``…``; ``**fields`` are those
of :py:obj:`BaseUpdater <bmrpruner.base_updater.BaseUpdater>`.
"""


def escaped(line: str) -> str:
    r"""A line of a docstring with what reStructuredText would take for markup kept as it is.

    Names in backquotes stay, as they may become links; other code gets two backquotes. Bars, as in
    |w|, and underscores, as in Σ_:q, get a backslash.

    Args:
      line: Text in which backquotes hold code.
    """
    mark = r"(``.*?``|`[^`]*`)(?=(\w)?)|\||(?<=\w)_(?!\w)"

    def as_shown(found: re.Match[str]) -> str:
        code, letter = found.groups()
        if code is None:
            return f"\\{found[0]}"
        is_name = code.startswith("``") or code.strip("`").replace(".", "_").isidentifier()
        shown = code if is_name and code[1] != "." else f"`{code}`"
        return shown + ("\\ " if letter else "")

    return re.sub(mark, as_shown, line)


def entry(name: str, value: Any) -> str:
    """A public name in full.

    Args:
      name: The name, on the page of the module that it belongs to.
      value: What it stands for.

    Returns:
      A directive that shows its signature and docstring.
    """
    path = home(name, value)
    if is_constant(value):
        text, _, example = constants()[name].partition("Example:\n")
        shown = f"{text}.. rubric:: Example\n\n{textwrap.dedent(example)}"
        return f".. py:data:: {name}\n\n" + textwrap.indent(shown, "   ") + "\n"
    others = [f"{m.__name__}.{n}" for m in modules() for n, v in names_of(m).items() if v is value]
    also = ", ".join(f"``{other}``" for other in others if other != path)
    more = f"\n   Also {also}.\n" if also else ""
    registered = [n for n, v in bmrpruner.ALGORITHM_REGISTRY.items() if v is value]
    if registered:
        more += f"\n   In configurations {', '.join(f'``{n!r}``' for n in registered)}.\n"
    if not inspect.isclass(value):
        return f".. autofunction:: {path}\n{more}"
    members = f"   :members: {', '.join(methods(value))}\n" if methods(value) else ""
    return f".. autoclass:: {path}\n{members}{more}"


def methods(cls: type) -> list[str]:
    """The documented methods and properties of a class that are its own.

    Args:
      cls: A class. What an updater has from `BaseUpdater` is described there.
    """
    is_updater = issubclass(cls, bmrpruner.BaseUpdater) and cls is not bmrpruner.BaseUpdater
    known = set(dir(bmrpruner.BaseUpdater)) if is_updater else set()
    kinds = (property, classmethod, staticmethod)
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_")
        and name not in known
        and (inspect.isfunction(value) or isinstance(value, kinds))
        and value.__doc__
    ]


def page(module: ModuleType) -> str:
    """The page of a module, in reStructuredText.

    Args:
      module: One of `modules()`.
    """
    title = module.__name__
    parts = [f"{title}\n{'=' * len(title)}\n\n.. automodule:: {title}\n"]
    lines, entries = [], []
    by_kind = sorted(names_of(module).items(), key=lambda item: inspect.ismodule(item[1]))
    for name, value in by_kind:
        if inspect.ismodule(value):
            is_here = not value.__name__.endswith(NOT_HERE)
            shown = f":doc:`{name} <{value.__name__}>`" if is_here else f"``{name}``"
        else:
            path = home(name, value)
            shown = f":py:obj:`{name} <{path}>`"
            if path == f"{title}.{name}":
                entries.append(entry(name, value))
        lines.append(f"- {shown}: {escaped(first_line(name, value))}")
    return "\n".join([*parts, *lines, "", *entries])


def short(module: ModuleType) -> str:
    """The name of a module for the narrow menu.

    Args:
      module: One of `modules()`.
    """
    return module.__name__.removeprefix("bmrpruner.")


def pages() -> dict[str, str]:
    """The pages of the reference by the names of their files."""
    found = {f"{module.__name__}.rst": page(module) for module in modules()}
    lines = [
        f"- :doc:`{module.__name__}`: {escaped(first_line('', module))}" for module in modules()
    ]
    inside = "\n".join(f"   {short(module)} <{module.__name__}>" for module in modules())
    menu = f".. toctree::\n   :hidden:\n\n{inside}\n"
    found["index.rst"] = "\n".join([HEAD, menu, *lines, ""])
    return found


def write_pages(app: Any) -> None:
    """Write the pages into the folder of the sources, and remove those of modules that are gone.

    Args:
      app: The Sphinx application.
    """
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    found = pages()
    for old in set(folder.glob("*.rst")) - {folder / name for name in found}:
        old.unlink()
    for name, text in found.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def show_signature(app: Any, what: str, name: str, value: Any, *rest: Any) -> Any:
    """The short signature of a function or class, for Sphinx's `autodoc-process-signature`."""
    return (signature(value), None) if what in ("function", "class") else None


def keep_colons(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Hide a colon in what is returned, which Napoleon takes for the end of a type."""
    for i in range(1, len(lines)):
        if lines[i - 1].strip() == "Returns:":
            lines[i] = lines[i].replace(":", HIDDEN)


def show_marks(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep bars and the like in docstrings as they are, and show the hidden colons."""
    in_math = False
    for i, line in enumerate(lines):
        in_math = line.startswith(".. math::") or (in_math and (not line or line[0] == " "))
        if not in_math and not line.lstrip().startswith((">>>", "...")):
            lines[i] = escaped(line).replace(HIDDEN, ":")


def check_names(app: Any, env: Any) -> None:
    """Warn of public names without an entry, for Sphinx's `env-check-consistency`."""
    shown = env.get_domain("py").objects
    for module in modules():
        for name, value in names_of(module).items():
            path = value.__name__ if inspect.ismodule(value) else home(name, value)
            if path not in shown and not path.endswith(NOT_HERE):
                logger.warning("%s.%s: no entry in the reference", module.__name__, name)


def link_other_names(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Lead other ways to write a public name to its entry, for Sphinx's `missing-reference`.

    These are `bmrpruner.ivon` and `optimizers.ivon`, and names of classes without their modules.
    """
    path = other_names().get(node.get("reftarget"))
    if path is None or node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", path, node, content)


@functools.cache
def other_names() -> dict[str, str]:
    """The names that entries have, by other ways to write them."""
    found = {}
    for module in modules():
        for name, value in names_of(module).items():
            if not inspect.ismodule(value):
                full = f"{module.__name__}.{name}"
                found |= dict.fromkeys((full, full.partition(".")[2]), home(name, value))
                if inspect.isclass(value):
                    found[name] = home(name, value)
    return found


def setup(app: Any) -> dict[str, bool]:
    """Connect the functions above with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", show_signature)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before Napoleon's 500
    app.connect("autodoc-process-docstring", show_marks, priority=600)
    app.connect("env-check-consistency", check_names)
    app.connect("missing-reference", link_other_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
