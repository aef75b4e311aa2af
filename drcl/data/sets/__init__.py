"""The built-in data sets, a loader each; :func:`drcl.data.load` chooses among them."""
