"""Sphinx settings: `python -m sphinx -W docs docs/_build`."""

from nablax import __version__

project = "nablax"
author = "The nablax authors"
release = __version__
extensions = ["myst_nb"]
html_theme = "furo"
exclude_patterns = ["_build"]
nb_execution_mode = "force"
