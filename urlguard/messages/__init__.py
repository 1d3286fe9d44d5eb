"""Finds names and URLs in messages: see `finding`."""

from urlguard.messages.finding import MAX_FOUND, MAX_TEXT, Found, find

__all__ = ["MAX_FOUND", "MAX_TEXT", "Found", "find"]
