"""MkDocs hook: formulas become MathML at build time, which browsers draw without a script or a network."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\([(\[])(.*?)\\[)\]]\s*</\1>', re.S)


def _mathml(found: re.Match[str]) -> str:
    latex = html.unescape(found[3]).strip()
    if found[2] == "[":
        return convert(latex, display="block")
    formula = convert(latex, display="inline")
    # Too long for a phone: it has to scroll, which a formula in a line of text cannot do by itself.
    return f'<span class="long-formula">{formula}</span>' if len(latex) > 40 else formula


def on_page_content(content: str, **_: object) -> str:
    """Replace what `pymdownx.arithmatex` has marked."""
    return _FORMULA.sub(_mathml, content)
