"""Sphinx's settings for the site: see the package."""

project = "Blocks to Tokens"
author = "the Blocks to Tokens developers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx-mathjax-offline"]
html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "navbar_persistent": []}
html_copy_source = False
html_show_sourcelink = False
nb_execution_mode = "off"
nb_number_source_lines = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]
