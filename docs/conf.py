"""The static site: README and executed lessons as committed. Nothing runs, nothing is fetched.

`make site` builds it from the project's root, so that links between README, lessons and files hold.
"""

import os

from kit.show import LESSONS

project = "From a base model to a specialist"
copyright = "the authors, Apache-2.0"
extensions = ["myst_nb"]
html_theme = "sphinx_book_theme"
html_title = project
html_favicon = "favicon.svg"
html_context = {"default_mode": "auto"}
root_doc = "README"
include_patterns = ["README.md", "docs/specialist.md"]
include_patterns += [f"notebooks/{name}.ipynb" for name in LESSONS]
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # widgets have a static twin; their scripts would come from a CDN
myst_enable_extensions = []  # a dollar is a shell variable here, and formulas are code
myst_heading_anchors = 3
mathjax_path = "mathjax-is-not-loaded.js"  # the default is a CDN; lessons write formulas as code
suppress_warnings = [
    "myst.xref_missing",
    "myst.header",
    "mystnb.unknown_mime_type",
    "misc.highlighting_failure",
]
html_extra_path = ["root", *filter(None, [os.environ.get("SHIPPED")])]
CONTENTS = "\n".join(
    [
        "```{toctree}",
        ":hidden:",
        *(f"notebooks/{stem}" for stem in LESSONS),
        "docs/specialist",
        "```",
    ]
)


def add_contents(app, name, source):
    if name == root_doc:
        source[0] += f"\n\n{CONTENTS}\n"


def link_pages(app, name, template, context, doctree):
    """Point the course map, which a saved output holds as HTML, to pages instead of notebooks."""
    if "body" in context:
        for stem in LESSONS:
            context["body"] = context["body"].replace(f'href="{stem}.ipynb"', f'href="{stem}.html"')


def setup(app):
    app.connect("html-page-context", link_pages)
    app.connect("source-read", add_contents)
