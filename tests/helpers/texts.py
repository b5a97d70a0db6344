"""Texts of errors, compared as a whole: as people read them."""

from __future__ import annotations

import re


def exactly(text: str) -> str:
    """The pattern that only this text matches, for `pytest.raises(match=...)`."""
    return rf"^{re.escape(text)}\Z"


def case_id(value: object) -> str:
    """The value as the name of a case, without characters that pytest escapes: in a second run in the same process, as
    under mutmut, it escapes them once more, and no longer finds the case.
    """
    return "".join(one if one.isascii() and one.isprintable() and one != "\\" else "?" for one in str(value))
