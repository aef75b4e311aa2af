"""Runs the PTX that Triton compiles, on a CPU: every thread of a block is a lane of NumPy arrays.

    parse           PTX text to instructions
    registers       the lanes' registers, and where operands are found in them
    arithmetic      what computes: from registers to registers
    approximate     ... what a chip may round otherwise
    memory          global and shared memory, their bounds, and who may touch what when
    transfers       loads, stores, asynchronous copies, exchange between lanes
    tensor_cores    mma and wgmma
    blocks          control flow and barriers of some blocks that run in step
    barriers        which barriers keep nothing apart, by proof
    compiling       Triton's compiler without its last stage, also of another version
    launch          puts all of it in the place of a GPU under Triton's launches
    problems        what the tests compute, and how exact it has to be
    mutants         faults planted in the kernels' sources
    replay          faulty kernels on the arguments that the right ones had

An instruction that is not known raises :class:`parse.Unknown`; nothing is passed over in silence.
A wrong access raises :class:`memory.Fault` where it happens, or at the barrier that should have
come earlier.
"""
