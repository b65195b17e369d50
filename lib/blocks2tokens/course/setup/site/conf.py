"""Sphinx's settings for the site: see the package."""

import base64
import hashlib
from pathlib import Path

from blocks2tokens.course.setup import notebooks

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


def setup(app):
    app.connect("doctree-read", give_figures_their_texts)


def give_figures_their_texts(app, doctree):
    """Put in the place of a figure's file name what the lesson's output says that it shows.

    MyST-NB names a file after the SHA-256 of its bytes, and takes no text from an output's metadata.
    """
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb":
        return
    texts = {}
    for cell in notebooks.read(path).cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                name = hashlib.sha256(base64.b64decode(png)).hexdigest()
                texts[name] = output.metadata.get("image/png", {}).get("alt", "")
    for image in doctree.findall(lambda node: node.tagname == "image"):
        if text := texts.get(Path(image["uri"]).stem):
            image["alt"] = text
