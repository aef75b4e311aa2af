"""``python -m drcl`` is the command ``drcl``."""

from drcl.cli import main

if __name__ == "__main__":
    main(prog_name="drcl")
