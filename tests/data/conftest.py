"""The tokenizer of letters and a few words."""

from letter_tokenizer import tokenizer, tokenizer_folder

__all__ = ["tokenizer", "tokenizer_folder"]
