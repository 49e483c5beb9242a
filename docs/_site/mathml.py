"""MkDocs hook: formulas become MathML at build time, which browsers draw without a script or a network."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\([(\[])(.*?)\\[)\]]\s*</\1>', re.S)


def _mathml(found: re.Match[str]) -> str:
    latex = html.unescape(found[3]).strip()
    return convert(latex, display="block" if found[2] == "[" else "inline")


def on_page_content(content: str, **_: object) -> str:
    """Replace what `pymdownx.arithmatex` has marked."""
    return _FORMULA.sub(_mathml, content)
