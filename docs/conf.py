"""Sphinx settings: `make docs` builds docs/_build/html, where a warning is an error."""

import re

from nablax import __version__

project = "nablax"
author = "The nablax authors"
release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]
nb_execution_mode = "force"
autodoc_typehints = "none"  # the docstrings say more than the types
napoleon_custom_sections = ["Result", "Cost"]  # sections of plain text
default_role = "code"

# What means the same in reStructuredText: code, and lines of examples.
CODE = re.compile(r"(``.*?``|`[^`]*`|^ *>>> [^\n]*(?:\n *[^\s>][^\n]*)*)", re.DOTALL | re.MULTILINE)


def plain(app, what, name, obj, options, lines):
    """Docstrings are plain text with backquotes: ``|y|^2`` and ``*rest`` outside of them are no markup."""
    text = "\n".join(lines).replace("\nReturns:\n", "\nResult:\n")
    parts = CODE.split(text)
    parts[::2] = [re.sub(r"(?<!\*)([*|])(?!\*)", r"\\\1", part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", plain, priority=1)
