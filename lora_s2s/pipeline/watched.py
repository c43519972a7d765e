"""What a run is watched by: the validation loss, and scores of answers to a few sources."""

from __future__ import annotations

from torch import nn

from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.errors import UsageError
from lora_s2s.evaluation.evaluate import sample_places
from lora_s2s.evaluation.metrics import check_fit, check_metrics, need_the_model, scale_of
from lora_s2s.evaluation.while_training import ScoredSample
from lora_s2s.inference.loading import predictor_in_training
from lora_s2s.pipeline.adapted import AdaptedBase
from lora_s2s.pipeline.decoding import settings_for
from lora_s2s.pipeline.scored_data import chosen_metrics, split_to_score
from lora_s2s.recipe.fields import LOSS
from lora_s2s.recipe.schema import Recipe
from lora_s2s.training.processes import from_main_process
from lora_s2s.training.state import Goal
from lora_s2s.training.validation import Evaluate, make_validation


def goal_of(recipe: Recipe) -> Goal:
    """What the best adapter of a recipe's run is chosen by.

    Raises:
        UsageError: a metric that is unknown, or that says what answers are like.
    """
    name = recipe.training.best_metric
    if name == LOSS:
        return Goal()
    better = scale_of(name).better
    if better == "neither":
        raise UsageError(
            f"training.best_metric {name}: neither high nor low is better",
            hint="name a metric that has a better end, or loss",
        )
    return Goal(name, lower_is_better=better == "lower")


def watched(recipe: Recipe, adapted: AdaptedBase, prepared: PreparedDataset) -> Evaluate | None:
    """Returns the evaluation of a run; None without validation data.

    Raises:
        UsageError: a metric is unknown, or has nothing to count in the validation data.
    """
    table, settings = prepared.split("validation"), recipe.training.settled()
    if table is None:
        return None
    validate = make_validation(
        table,
        pad_token_id=int(adapted.tokenizer.pad_token_id),
        tokens_per_batch=settings.tokens_per_batch,
        batch_size=settings.batch_size,
    )
    if not settings.sources_to_score:
        return validate
    sample = _sample(recipe, adapted, prepared)

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {**validate(model), **from_main_process(sample.scores, sample.metrics)}

    return evaluate


def _sample(recipe: Recipe, adapted: AdaptedBase, prepared: PreparedDataset) -> ScoredSample:
    predictor = predictor_in_training(
        adapted.base, adapted.model, adapted.tokenizer, prepared.manifest.input
    )
    rows = split_to_score(recipe, predictor, prepared, "validation")
    best = [recipe.training.best_metric] if recipe.training.judges_answers else []
    if need_the_model(best):
        raise UsageError(
            f"training.best_metric {best[0]}: expected a metric of answers",
            hint=f"set training.best_metric={LOSS}, which falls and rises with bits_per_byte",
        )
    chosen = chosen_metrics(recipe.evaluation.metrics, rows)
    # The validation loss is there already.
    by_answers = [name for name in chosen if not need_the_model([name])]
    metrics = list(dict.fromkeys([*best, *by_answers]))
    places = sample_places(len(rows.sources), recipe.training.sources_to_score)
    references = [rows.references[place] for place in places]
    check_metrics(metrics)
    check_fit(metrics, references)
    return ScoredSample(
        predictor,
        [rows.sources[place] for place in places],
        references,
        metrics,
        settings_for(recipe, predictor, plain=True),
    )
