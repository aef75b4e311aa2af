"""``drcl::reversible_consistency``: the stages of :mod:`drcl.eager.reversible_consistency` as
kernels, a file each. :func:`drcl.ops.reversible_consistency.stages` puts them together.

    stage        file            launches (up to 32 classes)
    rows         rows.py         2 (3 for target rows)
    class_sums   class_sums.py   4
    gram         symmetric.py    2
    differences  symmetric.py    2 (in place of class_sums and gram, for B < D)
    combine      combine.py      2
    gradient     gradient.py     3 (4 after class_sums)

What goes from stage to stage, in float32 unless said; the algebra is in docs/linear-memory.md:

    outside         F (B, D): x̂ − r̂ outside the prior's column space; (B, 0) for K = D
    coordinates     H = [U, Δ, V] (B, 3K): of r̂, of r̂ − x̂ and of x̂ in that space
    label_gradient  d(Σ GCE)/d(X Q) (B, K)
    norms           (2, B): |x| and |r|, 0 for unlabelled rows
    sums            (3,): Σ GCE, Σ |r − x|², labelled rows
    inner, cross    HᵀH (3K, 3K) float64, and [Δ, V]ᵀF (2K, D); empty for B < D
    gram_matrix     FᵀF (1, D, D), or M and Z (2, B, B) for B < D

x̂ and r̂ are the rows of features and of recast labels (R = Y W⁺), scaled to length one, and Q is the
``basis`` (D, K) of the space of both W's columns and R's rows. Of the mixing, ``first`` and
``second`` are the targets of a row and of its partner, ``other`` is the partner π(i), ``origin`` is
π⁻¹, and ``rest`` is 1 − λ.

Each has the eager stage's signature and returns the same tensors. Nothing waits for the GPU, no
shape depends on data, nothing is added up atomically: a captured graph replays, and replays the
same bits.
"""
