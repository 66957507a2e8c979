"""Sphinx settings: `make docs` builds docs/_build/html, where a warning is an error."""

import re

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

from nablax import __version__

project = "nablax"
author = "The nablax authors"
release = __version__
html_title = f"nablax {__version__}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
autodoc_typehints = "none"  # the docstrings say more than the types
napoleon_custom_sections = ["Result", "Cost"]  # sections of plain text
default_role = "code"
html_math_renderer = "mathml"

# What means the same in reStructuredText: code, and lines of examples.
CODE = re.compile(r"(``.*?``|`[^`]*`|^ *>>> [^\n]*(?:\n *[^\s>][^\n]*)*)", re.DOTALL | re.MULTILINE)


def plain(app, what, name, obj, options, lines):
    """Docstrings are plain text with backquotes: ``|y|^2`` and ``*rest`` outside of them are no markup."""
    text = "\n".join(lines).replace("\nReturns:\n", "\nResult:\n")
    parts = CODE.split(text)
    parts[::2] = [re.sub(r"(?<!\*)([*|])(?!\*)", r"\\\1", part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def formula(display):
    """Formulas become MathML, which browsers draw by themselves: pages need no network and no script."""

    def visit(translator, node):
        translator.body.append(convert(node.astext(), display=display))
        raise SkipNode

    return visit


def setup(app):
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (formula("inline"), None), (formula("block"), None))
    app.connect("autodoc-process-docstring", plain, priority=1)
