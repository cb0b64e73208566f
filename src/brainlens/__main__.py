"""`python -m brainlens`, which is also what `torchrun -m brainlens` starts."""

from brainlens.cli import main

if __name__ == "__main__":
    main()
