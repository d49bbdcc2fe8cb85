"""Settings of the documentation site, which `bash run.sh docs` builds."""

import sys
from importlib.resources import files
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "_ext")]

project = "bmrpruner"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "reference_pages",
]
exclude_patterns = ["_build", "_ext"]

# Markdown, and pages whose code runs while the site is built.
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_merge_streams = True

# Docstrings: single backquotes are code, and links where they name something public.
default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False
napoleon_custom_sections = [(name, "params_style") for name in ("Attributes", "Settings")]
maximum_signature_line_length = 80
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"

# The site loads nothing from elsewhere.
# One file draws the formulas, fonts included.
mathjax = files("sphinx-mathjax-offline") / "static/mathjax/tex-svg.js"
mathjax_path = mathjax.name
myst_update_mathjax = False
html_theme = "sphinx_book_theme"
html_title = "bmrpruner"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static", str(mathjax)]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_search_summary = False  # reads the pages again, which browsers refuse for files
html_domain_indices = False
html_use_index = False
html_show_copyright = False
html_theme_options = {
    "footer_content_items": [],
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
}
html_context = {"default_mode": "auto"}
