"""``python -m hyperkit._ext build``: compile the kernels; ``... path``: where the library is."""

from __future__ import annotations

import argparse
import sys
import time

from . import build


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hyperkit._ext", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("build", help="compile the kernels for this machine (needs a C++ compiler)")
    make.add_argument("--cuda", action="store_true", help="with the GPU kernels (needs nvcc, not a GPU)")
    make.add_argument(
        "--arch",
        type=int,
        nargs="+",
        default=list(build.ARCHITECTURES),
        help="compute capabilities for --cuda, such as 80 90",
    )
    make.add_argument("--optional", action="store_true", help="exit with 0 even if it fails, and say why")
    make.add_argument("--force", action="store_true", help="build although the library is there")
    verbs.add_parser("path", help="print the path of the library")
    args = parser.parse_args(arguments)
    found = build.find_library()
    if args.verb == "path":
        print(found or "not built")
        return 0 if found else 1
    if found and not args.force and not args.cuda:
        print(f"up to date: {found}")
        return 0
    start = time.perf_counter()
    try:
        path = build.build(cuda=args.cuda, architectures=args.arch)
    except build.BuildError as error:
        print(f"kernels not built: {error}", file=sys.stderr)
        print("hyperkit works without them, in PyTorch alone.", file=sys.stderr)
        return 0 if args.optional else 1
    print(f"built {path} in {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
