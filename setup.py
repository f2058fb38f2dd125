"""For ``--setup_file``, from which runners build a source distribution; see pyproject.toml."""

from setuptools import setup

setup()
