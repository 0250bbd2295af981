"""Settings of Sphinx: `sphinx-build -W docs docs/_build`."""

project = "apt-peft"
author = "the apt_peft authors"
copyright = "2026, the apt_peft authors"
extensions = ["myst_parser"]
exclude_patterns = ["_build", "results"]
html_theme = "furo"
html_title = "apt-peft"
myst_heading_anchors = 3
