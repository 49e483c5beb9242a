"""Griffe extension: the docstrings' reStructuredText roles and literals, in Markdown.

``:class:`~a.b.C``` becomes a link where the API pages hold the object and plain code elsewhere.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc|obj):`(~?)([^`]+)`")
_MATH = re.compile(r":math:`([^`]+)`")


def _role(found: re.Match[str]) -> str:
    target = found[2]
    return f"`{target.rsplit('.', 1)[-1] if found[1] else target}`"


class Roles(griffe.Extension):
    """Rewrite every docstring once, when its object has been read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Griffe's hook, called for every object."""
        if obj.docstring is not None:
            text = _ROLE.sub(_role, obj.docstring.value)
            obj.docstring.value = _MATH.sub(r"$\1$", text)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Griffe's hook, called for every class: attributes that nothing describes are not shown."""
        for name, member in list(cls.members.items()):
            plain = member.is_attribute and member.docstring is None and "property" not in member.labels
            if plain and member.annotation is None:  # fields of data classes and settings have one
                # Not `public = False`: names that are exported elsewhere are aliases, which do not see it.
                cls.del_member(name)
