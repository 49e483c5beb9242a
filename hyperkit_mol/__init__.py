"""Chemistry on top of hyperkit: a hyperbolic molecule generator and the MOSES metrics."""

__all__ = ["__version__"]

__version__: str


def __getattr__(name: str) -> str:
    # Looked up when asked for: preprocessing workers import this package and have no use for torch.
    if name == "__version__":
        from hyperkit._version import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
