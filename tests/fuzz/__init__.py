"""Random models, options and calls, compared with nested automatic differentiation: ``python -m fuzz --minutes 20``.

A program is a list of steps, each one line of Python (`programs.py`, `operations.py`); a call is what is asked of it
(`options.py`). Both are data, so that a failure can be made smaller (`shrink.py`) and printed as a script that stands
alone (`script.py`). What is computed is the printed text itself.
"""
