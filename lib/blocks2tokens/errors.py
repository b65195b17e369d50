"""The errors that the engine raises on purpose. All are ValueErrors."""


class GGUFError(ValueError):
    """A GGUF file that is malformed or truncated; the message names file, offset and reason."""


class UnsupportedError(ValueError):
    """A well-formed file that asks for an architecture, tensor type or pre-tokenizer we do not have."""
