"""What the assemblers make of every Triton kernel, found without a GPU.

    python -m drcl.benchmarks.gates [--arch 90] [--kernel rows] [--python ~/triton-3.6/bin/python]
    python -m drcl.benchmarks.gates.model

`launches` records which kernels the launchers start for some problems, and in which form.
`assemble` compiles those with the Triton of any Python, without PyTorch. `banks` counts conflicts
in shared memory, `device` says how many blocks a multiprocessor holds, `amd` does what is done for
AMD's GPUs, and `checks` holds all of it to the gates. `sass` and `model` predict a kernel's time
from the assembler's code. What the gates say is counted; what the model says is predicted, and has
not been calibrated on a GPU.
"""
