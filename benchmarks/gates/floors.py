"""The warps a multiprocessor must hold of each kernel, and its bank conflicts and spills at most.

The first line that fits counts: kernel, label, architectures, number. A kernel holds what it was
counted to hold for sm_90 when its configuration was chosen, with either Triton; a change that loses
a block fails. Everywhere else a warp for each scheduler is the least.
"""

ALL = (75, 80, 90, 100, 120)

Table = list[tuple[str, str, tuple[int, ...], int]]

WARPS: Table = [
    # whole rows in registers: eight warps of one row each at D = 2,048
    ("rows_kernel", "*", (90,), 8),
    ("unit_rows_kernel", "*", (90,), 12),
    ("outside_kernel", "*", (90,), 20),
    ("coefficients_kernel", "*", (90,), 8),
    ("finish_kernel", "*", (90,), 12),
    # a row a warp, and 32 blocks at most
    ("gce_rows_kernel", "*", (90,), 32),
    ("wide_coefficients_kernel", "*", (90,), 28),
    # products: three blocks where no user's precision asks for larger tiles. 128×128 in two parts
    # is one block of eight warps; held to the registers of two, eight bytes a thread spill.
    ("symmetric_kernel", "8192*high*", (90,), 8),
    ("symmetric_kernel", "*high*", (90,), 16),
    ("symmetric_kernel", "*medium*", (90,), 16),
    ("symmetric_kernel", "*", (90,), 12),
    ("product_kernel", "*high*", (90,), 8),
    ("product_kernel", "*medium*", (90,), 8),
    ("product_kernel", "*", (90,), 12),
    ("prior_similarity_kernel", "*", (90,), 8),
    ("class_sums_kernel", "*", (90,), 16),
    ("similarity_kernel", "*", (90,), 8),
    ("differences_kernel", "*", (90,), 8),
    # few programs, whose loads are all on their way at once
    ("sum_partials_kernel", "*", (90,), 20),
    # sums and copies: what hides the latency of memory
    ("*", "*", (90,), 24),
    ("*", "*", ALL, 4),
]

# n-way, in the loops of products.
CONFLICTS: Table = [
    # float32 arithmetic, for GPUs without bf16 tensor cores: an operand that lies along the sum is
    # read by threads whose rows lie apart by the tile's depth, and Triton's layout for such
    # operands has no swizzle. The loads are in the inner loop.
    ("differences_kernel", "*", (75,), 32),
    ("symmetric_kernel", "*", (75,), 16),
    ("product_kernel", "*", (75,), 16),
    ("*", "*", ALL, 2),
]

# Bytes a thread that may be spilled.
SPILLS: Table = [
    # Triton 3.9: one register, once a program and in no loop. With one row a program there is none,
    # but every basis vector is then read twice as often; told of all registers it takes none
    # either, but with Triton 3.6 a quarter of the programs is lost.
    ("rows_kernel", "1000×300*", (90,), 8),
    # the same. With a limit of 255 registers there is none, but
    # the assembler for sm_90 then takes twice as many in the forms for narrow rows.
    ("coefficients_kernel", "1000×300*", (100,), 8),
    ("*", "*", ALL, 0),
]

# Kernels whose tiles have fewer than 64 rows, which wgmma and tcgen05 would need.
LOW_TILES = ("differences_kernel", "prior_similarity_kernel")
