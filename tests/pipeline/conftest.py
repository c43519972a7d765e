"""The command-line fixtures: the Python API is compared with the commands."""

from cli_parts import here, invoke, tiny_model

__all__ = ["here", "invoke", "tiny_model"]
