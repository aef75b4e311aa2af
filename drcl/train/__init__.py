"""Training: settings, the epoch loop, and the two phases that use it."""
