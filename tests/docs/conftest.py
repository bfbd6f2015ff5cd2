"""The browser in which pages are opened."""

from browser import browser, open_page  # noqa: F401
