"""The command-line fixtures."""

from cli_parts import here, invoke, tiny_model

__all__ = ["here", "invoke", "tiny_model"]
