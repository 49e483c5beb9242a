"""Doctest's comparison, but numbers within 1e-4: kernels and eager code differ in the last place."""

from __future__ import annotations

import doctest
import math
import re

_NUMBER = re.compile(r"-?\d+\.\d*(?:e[+-]?\d+)?")


class NumbersChecker(doctest.OutputChecker):
    """Takes ``tensor(1.)`` where ``tensor(1.0000)`` is expected: torch prints so what rounding made of 1."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        """Whether the text is the same and every number nearly so."""
        if super().check_output(want, got, optionflags):
            return True
        said, meant = (_NUMBER.sub("#", text).split() for text in (got, want))
        pairs = zip(_NUMBER.findall(got), _NUMBER.findall(want), strict=False)
        return said == meant and all(
            math.isclose(float(a), float(b), rel_tol=1e-4, abs_tol=1e-4) for a, b in pairs
        )


def test_a_wrong_number_is_noticed() -> None:
    check = NumbersChecker().check_output
    assert check("(tensor(1.0000), tensor([0.]))\n", "(tensor(1.), tensor([0.0000]))\n", 0)
    assert not check("tensor(1.0000)\n", "tensor(1.0010)\n", 0)
    assert not check("tensor([1.0000])\n", "tensor([1.0000, 2.0000])\n", 0)
    assert not check("tensor([4])\n", "tensor([5])\n", 0)
