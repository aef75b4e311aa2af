"""What the suite measures: a module for every family of ops, with its ``ENTRIES``, and training."""
