"""Recipe → prepared data → adapter folder. Heavy to import."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lora_s2s.console import say, warn
from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.pipeline.adapted import AdaptedBase, adapted_base
from lora_s2s.pipeline.adapter_folder import identity, origin, write_adapter
from lora_s2s.pipeline.choices import advice_on, gather_facts, resolved_recipe
from lora_s2s.pipeline.lengths import answer_limit, warn_of_short_answers, with_data
from lora_s2s.pipeline.notices import beside_others, show_data, warn_of_dtype
from lora_s2s.pipeline.plan import check_device, check_fits
from lora_s2s.pipeline.prepare import data_line, label_record, prepare_data, sources_of
from lora_s2s.pipeline.runs import finished_run, recipe_of_run, running_folder
from lora_s2s.pipeline.trained import RunOptions, TrainedAdapter, check_run_folder
from lora_s2s.pipeline.watched import goal_of, watched
from lora_s2s.recipe.schema import Recipe
from lora_s2s.training.loop import train
from lora_s2s.training.processes import (
    computing_on,
    is_main_process,
    main_process_first,
    process_count,
)
from lora_s2s.training.state import TrainResult


def train_adapter(
    recipe: Recipe,
    *,
    prepared: PreparedDataset | None = None,
    options: RunOptions | None = None,
) -> TrainedAdapter:
    """Prepares, trains and writes the adapter's folder.

    Args:
        prepared: the data, prepared with this recipe; None prepares it.
    """
    options = options or RunOptions()
    resume = options.resume
    if resume and (finished := finished_run(recipe)):
        return TrainedAdapter(**finished)
    running, final = check_run_folder(recipe, options)
    check_device(recipe)  # refused before minutes go into preparing
    warn_of_dtype(recipe)
    with main_process_first():
        given, prepared = prepared, prepared or prepare_data(recipe)
    sources = sources_of(recipe, prepared, just_made=given is None)
    say(data_line(prepared))
    show_data(prepared.manifest.report)
    warn_of_short_answers(recipe, prepared)
    recipe = with_data(recipe, prepared)
    if options.check_memory:
        check_fits(recipe, prepared)
    # A base that will be divided goes to the devices block by block.
    divided = recipe.training.sharding == "full" and process_count() > 1
    adapted = adapted_base(recipe, prepared, in_main_memory=divided)
    facts = gather_facts(prepared, parameters=adapted.base_parameters, device=adapted.device_type)
    recipe = resolved_recipe(recipe, facts, begun=running if resume else None)
    say(f"{recipe.model.name}: {adapted.line}")
    threads, line = beside_others(adapted.device_type, training=True)
    if line:
        warn(line)
    with (
        computing_on(threads),
        running_folder(running, resume=resume),
        recipe_of_run(running, recipe),
    ):
        result = _trained(recipe, adapted, prepared, running, options)
        if is_main_process() and result.is_done:
            made_from = {**origin(recipe, adapted.base, prepared), **label_record(prepared)}
            made_from["sources"] = sources
            limit = answer_limit(recipe, prepared)
            write_adapter(running, final, adapted, result, made_from, limit)
    counts, done, main = adapted.counts, result.is_done, is_main_process()
    return TrainedAdapter(
        **vars(result),
        trainable_parameters=counts["trainable_parameters"],
        total_parameters=counts["total_parameters"],
        adapter=final if done else None,
        advice=advice_on(final, recipe, len(prepared.train)) if done and main else (),
    )


def _trained(
    recipe: Recipe,
    adapted: AdaptedBase,
    prepared: PreparedDataset,
    running: Path,
    options: RunOptions,
) -> TrainResult:
    return train(
        adapted.model,
        prepared.train,
        pad_token_id=int(adapted.tokenizer.pad_token_id),
        settings=recipe.training.settled(),
        run_dir=running,
        evaluate=watched(recipe, adapted, prepared),
        options=replace(
            options, identity=identity(recipe, adapted.base, prepared), goal=goal_of(recipe)
        ),
    )
