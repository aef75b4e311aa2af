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
    ("gce_rows_kernel", "*", (90,), 16),
    ("wide_coefficients_kernel", "*", (90,), 28),
    # products: three blocks where no user's precision asks for larger tiles
    ("symmetric_kernel", "*high*", (90,), 16),
    ("symmetric_kernel", "*medium*", (90,), 16),
    ("symmetric_kernel", "*", (90,), 12),
    ("product_kernel", "*high*", (90,), 8),
    ("product_kernel", "*medium*", (90,), 8),
    # rows of ten numbers, as below
    ("product_kernel", "8192×2048 C=10 rows*", (90,), 8),
    ("product_kernel", "1024×16384 C=10*", (90,), 8),
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
    # wgmma takes TF32 operands along the sum only: what lies the other way (F in M F, both sides
    # of FᵀF) is turned round on its way through registers
    ("symmetric_kernel", "*high*", (90,), 16),
    ("product_kernel", "*high*", (90,), 16),
    # rows of ten numbers lie in no groups of four and are copied word by word: P Q and V, of which
    # one step multiplies few
    ("product_kernel", "8192×2048 C=10 rows*", ALL, 32),
    ("product_kernel", "1024×16384 C=10*", ALL, 32),
    # counted with Triton 3.9, which writes bf16 operands of tcgen05 to shared memory; the
    # instructions that collide have not been traced back
    ("symmetric_kernel", "*", (100,), 8),
    ("product_kernel", "*", (100,), 8),
    ("*", "*", ALL, 2),
]

# Bytes a thread that may be spilled.
SPILLS: Table = [
    # Triton 3.9: one register, once a program and in no loop; with one row a program there
    # is none, but every basis vector is then read twice as often
    ("rows_kernel", "1000×300*", (90,), 8),
    # Triton 3.9, forms of class space: counted, not traced back
    ("product_kernel", "1024×2048 C=1000*", (100,), 8),
    ("*", "*", ALL, 0),
]

# Kernels whose tiles have fewer than 64 rows, which wgmma and tcgen05 would need.
LOW_TILES = ("differences_kernel", "prior_similarity_kernel")
