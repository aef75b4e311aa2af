"""How many warps a multiprocessor must hold of each kernel, and the bank conflicts it may have.

The first line that fits counts: kernel, label, architectures, number. A kernel holds what it was
counted to hold when its configuration was chosen; a change that loses a block fails.
"""

ALL = (75, 80, 90, 100, 120)

Table = list[tuple[str, str, tuple[int, ...], int]]

WARPS: Table = [
    ("*", "*", ALL, 8),
]

# n-way, in the loops of products. Two-way is what a tile without padding costs at best.
CONFLICTS: Table = [
    ("*", "*", ALL, 2),
]
