"""Keep passwords out of what is printed, logged and stored."""

from __future__ import annotations

import re

MASK = "***"
URI_LOGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^\s/]*(?:/[^\s@]*)*@", re.IGNORECASE)
NAMED = re.compile(
    r"(?P<name>\b\w*(?:password|passwd|secret|api_?key|access_key|private_key|token)\w*[\"']?\s*[:=]\s*)"
    r"(?P<value>\"[^\"]+\"|'[^']+'|[^\s,;}\])\"']+)",
    re.IGNORECASE,
)


def mask_secrets(text: str) -> str:
    """The text without logins in URIs and without the values of what is called password, secret, key or token."""
    return NAMED.sub(rf"\g<name>{MASK}", URI_LOGIN.sub(rf"\g<scheme>{MASK}@", text))
