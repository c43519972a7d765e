"""The command-line fixtures."""

from cli_parts import here, invoke

__all__ = ["here", "invoke"]
