"""Files on disk: replaced whole, locked, with checksums, or mapped and never read whole."""
