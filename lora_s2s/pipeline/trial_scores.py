"""The validation scores of a sweep's complete trials, source by source. Heavy to import."""

from __future__ import annotations

from lora_s2s.data.prepared import PreparedDataset
from lora_s2s.display import Silent, showing
from lora_s2s.evaluation.evaluate import sample_places
from lora_s2s.evaluation.mbr import decode
from lora_s2s.evaluation.measured import Measured
from lora_s2s.evaluation.metrics import measure
from lora_s2s.inference.score import reference_losses
from lora_s2s.pipeline.decoding import settings_for
from lora_s2s.pipeline.model import predictor_of
from lora_s2s.pipeline.scored_data import split_to_score
from lora_s2s.pipeline.study import TrialRecord
from lora_s2s.pipeline.trials import Setup
from lora_s2s.recipe.fields import LOSS
from lora_s2s.recipe.load import recorded_recipe
from lora_s2s.training.state import VALIDATION_LOSS


def scored_sources(setup: Setup, trial: TrialRecord, prepared: PreparedDataset) -> Measured:
    """A complete trial's score of every validation source, by what the sweep decides by."""
    adapter = setup.adapter_of(trial)
    recipe = recorded_recipe(adapter)
    with showing(Silent()):  # what is said of the base is said once, by the first trial
        predictor = predictor_of(str(adapter), recipe)
        rows = split_to_score(recipe, predictor, prepared, "validation")
        settings = settings_for(recipe, predictor, plain=True)
        if setup.goal.score == VALIDATION_LOSS:
            losses = reference_losses(predictor, rows.sources, rows.references, settings)
            no_answers = [""] * len(losses)
            return measure(no_answers, rows.references, [LOSS], losses=losses)[LOSS]
        # The sample that training was watched by.
        places = sample_places(len(rows.sources), recipe.training.sources_to_score)
        sources = [rows.sources[place] for place in places]
        references = [rows.references[place] for place in places]
        texts = [answer.text for answer in decode(predictor, sources, settings)]
        return measure(texts, references, [setup.goal.score], sources)[setup.goal.score]
