"""Blocks to Tokens: the engine that the lessons build."""

from blocks2tokens.errors import GGUFError, UnsupportedError

__all__ = ["GGUFError", "UnsupportedError"]
