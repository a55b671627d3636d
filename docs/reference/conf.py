"""How the reference is made from the docstrings."""

import nprnn

for name in nprnn._ON_REQUEST:  # Sphinx looks only at what is there already
    setattr(nprnn, name, getattr(nprnn, name))

project, release = "nprnn", nprnn.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "none"  # the docstrings say more: shapes
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "inherited-members": "dict,list,object,tuple,BaseException",
}
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_param = napoleon_use_rtype = False
autodoc_preserve_defaults = True
default_role = "code"
toc_object_entries_show_parents = "hide"
html_theme = "alabaster"
html_theme_options = {"page_width": "60em", "description": nprnn.__doc__}
