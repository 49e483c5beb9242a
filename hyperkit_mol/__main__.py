"""``python -m hyperkit_mol``: the same as ``hyperkit-mol``."""

from hyperkit_mol.cli import main

if __name__ == "__main__":
    main()
