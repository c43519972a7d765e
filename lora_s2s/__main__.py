"""``python -m lora_s2s`` is the same as ``lora-s2s``."""

from lora_s2s.cli import main

if __name__ == "__main__":
    main()
