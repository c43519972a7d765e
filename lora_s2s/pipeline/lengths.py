"""Length limits of a run: bounds for those that are ``auto``, and the numbers that came out, back
in the recipe.
"""

from __future__ import annotations

from lora_s2s.console import say, warn
from lora_s2s.data.limits import KEYS, Bounds
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.models.precision import resolve_device
from lora_s2s.models.row_memory import device_memory, positions, read_config, row_cost
from lora_s2s.pipeline.decoding import limit_words
from lora_s2s.pipeline.followed import with_trained_constraint
from lora_s2s.recipe.schema import Recipe
from lora_s2s.records import InputSettings

# Of the targets, how many an answer may be too short for before it is reported.
_SHARE_REPORTED = 0.01


def bounds_of(recipe: Recipe) -> Bounds:
    """Returns what a recipe's base and this machine allow of a length."""
    device = resolve_device()
    settings = read_config(recipe.model.name, recipe.model.revision)
    return Bounds(positions(settings), device_memory(device), row_cost(settings, device))


def with_lengths(recipe: Recipe, prepared: PreparedDataset) -> Recipe:
    """Returns the recipe with the limits that its data was prepared with, and the answers' limit
    that follows them.
    """
    chosen = {key: getattr(prepared.manifest.input, key) for key in KEYS.values()}
    data = recipe.data.model_copy(update=chosen)
    tokens = answer_limit(recipe, prepared)
    evaluation = recipe.evaluation.model_copy(update={"max_new_tokens": tokens})
    return recipe.model_copy(update={"data": data, "evaluation": evaluation})


def answer_limit(recipe: Recipe, prepared: PreparedDataset) -> int:
    """Returns the length limit of answers."""
    return recipe.evaluation.answer_tokens(trained_on(prepared).answer_limit)


def trained_on(prepared: PreparedDataset) -> InputSettings:
    """Returns the input settings of an adapter trained on this data."""
    return prepared.manifest.input.model_copy(update=prepared.train.target_facts)


def with_data(recipe: Recipe, prepared: PreparedDataset) -> Recipe:
    """Returns the recipe with what it leaves to its data: lengths, and the labels of answers."""
    return with_trained_constraint(with_lengths(recipe, prepared), prepared)


def warn_of_short_answers(recipe: Recipe, prepared: PreparedDataset) -> None:
    """Reports, before training, the length limit of answers, and warns where it is below many of
    the targets that they are compared with.
    """
    limit = answer_limit(recipe, prepared)
    say(f"evaluation.max_new_tokens: {limit_words(limit, trained_on(prepared))}")
    for name in ("train", "validation", "test"):
        if (table := prepared.split(name)) is None:
            continue
        share = float((table.target_lengths > limit).mean())
        if share > _SHARE_REPORTED:
            warn(
                f"answers stop after {limit:,} tokens, and {share:.0%} of the {name} targets are "
                f"longer: --set evaluation.max_new_tokens={table.target_lengths.max()}"
            )
            return
