"""``hyperkit-mol`` and ``python -m hyperkit_mol``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point. Without the extra ``mol`` it says so, and ``doctor`` works all the same."""
    try:
        from hyperkit_mol.cli import main as run
    except ModuleNotFoundError as err:
        if (err.name or "").startswith("hyperkit"):
            raise
        if sys.argv[1:] == ["doctor"]:
            from hyperkit_mol.doctor import main as examine

            sys.exit(examine())
        print(
            f"hyperkit-mol: {err.name} is not installed; pip install 'hyperkit[mol]' brings all that is "
            "needed, hyperkit-mol doctor says what is missing",
            file=sys.stderr,
        )
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
