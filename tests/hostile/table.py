"""Bad inputs, one table: what is run, on what files, the exit code, the message and the limits."""

from __future__ import annotations

from rows_adapters import ADAPTERS
from rows_data import DATA, TEXTS
from rows_heavy import HEAVY
from rows_messages import MESSAGES
from rows_models import MODELS
from rows_recipes import ENVIRONMENT, RECIPES, TEMPLATES

TABLE = [
    *MESSAGES,
    *RECIPES,
    *TEMPLATES,
    *DATA,
    *TEXTS,
    *ENVIRONMENT,
    *ADAPTERS,
    *MODELS,
    *HEAVY,
]
