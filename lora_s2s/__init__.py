"""Fine-tune encoder-decoder models with LoRA: prepare, train, score, merge, ship."""

__version__ = "0.1.0"
