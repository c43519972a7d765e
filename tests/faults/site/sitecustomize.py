"""Puts the failing file layer in place when Python starts, where the environment asks for it."""

import os

if "LORA_S2S_TEST_FAULT" in os.environ:
    import layer

    layer.install_from_environment()
