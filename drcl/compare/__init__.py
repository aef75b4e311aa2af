"""``drcl compare``: methods of the field under one protocol, over seeds, with tests."""
