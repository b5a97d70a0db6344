"""Texts of errors, compared as a whole: as people read them."""

from __future__ import annotations

import re


def exactly(text: str) -> str:
    """The pattern that only this text matches, for `pytest.raises(match=...)`."""
    return rf"^{re.escape(text)}\Z"
