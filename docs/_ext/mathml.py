"""Show formulas as MathML, which browsers draw themselves: no script, no font, no network."""

from __future__ import annotations

import re
from typing import Any

import latex2mathml.converter
from docutils import nodes
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)


def visit_math(translator: Any, node: nodes.math) -> None:
    """Write a formula that stands in a line."""
    translator.body.append(f'<span class="math">{_mathml(node, "inline")}</span>')
    raise nodes.SkipNode


def visit_displaymath(translator: Any, node: nodes.math_block) -> None:
    """Write a formula that stands by itself, with its number if it has a label."""
    number = ""
    if node["number"]:
        shown = get_node_equation_number(translator, node)
        number = f'<span class="eqno">({shown})</span>'
    ids = f' id="{node["ids"][0]}"' if node["ids"] else ""
    translator.body.append(f'<div class="math"{ids}>{_mathml(node, "block")}{number}</div>\n')
    raise nodes.SkipNode


def _mathml(node: nodes.Element, display: str) -> str:
    text = node.astext().strip().replace("{aligned}", "{align*}")
    if r"\\" in text and r"\begin" not in text:
        text = rf"\begin{{align*}}{text}\end{{align*}}"
    found = latex2mathml.converter.convert(text, display=display)
    if unknown := re.findall(r"\\\w+", found):
        logger.warning("%s: not known as MathML: %s", text, ", ".join(unknown), location=node)
    return found


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer `mathml` with Sphinx."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
