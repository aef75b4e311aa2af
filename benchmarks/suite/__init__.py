"""The suite: what an entry is, how it is measured, kept, compared and published."""
