"""Puts the failing file layer in place when Python starts, where the environment asks for it."""

import os
import sys
from pathlib import Path

if "LORA_S2S_TEST_FAULT" in os.environ:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import layer

    layer.install_from_environment()
