"""Every command by its name, in the order of the help."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import typer

from lora_s2s.commands.adapters import adapters
from lora_s2s.commands.demo import demo
from lora_s2s.commands.doctor import doctor
from lora_s2s.commands.eval import evaluate
from lora_s2s.commands.export import export
from lora_s2s.commands.init import init
from lora_s2s.commands.merge import merge
from lora_s2s.commands.plan import plan
from lora_s2s.commands.predict import predict
from lora_s2s.commands.prepare import prepare
from lora_s2s.commands.push import push
from lora_s2s.commands.recipes import recipes
from lora_s2s.commands.serve import serve
from lora_s2s.commands.sweep import sweep
from lora_s2s.commands.train import train
from lora_s2s.commands.ui import ui

COMMANDS: Mapping[str, Callable[..., None]] = {
    "demo": demo,
    "init": init,
    "prepare": prepare,
    "plan": plan,
    "train": train,
    "sweep": sweep,
    "eval": evaluate,
    "predict": predict,
    "merge": merge,
    "export": export,
    "push": push,
    "serve": serve,
    "ui": ui,
    "doctor": doctor,
}
# Those with commands of their own.
GROUPS: Mapping[str, typer.Typer] = {"recipes": recipes, "adapters": adapters}
