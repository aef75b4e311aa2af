"""One module per family of file formats; :mod:`drcl.data.files` chooses among them."""
