"""The ``eager`` backend: linear-memory algebra in plain PyTorch, on any device."""
