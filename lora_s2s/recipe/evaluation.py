"""The recipe's section ``evaluation``: how answers are decoded and scored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lora_s2s.recipe.fields import (
    AUTO,
    Beams,
    Candidates,
    ConstraintValue,
    LengthPenalty,
    Metrics,
    NBest,
    NewTokens,
    NgramSize,
    RepetitionPenalty,
    SamplingSeed,
    Section,
    Temperature,
    TopP,
    Utility,
)

_BASE_ANSWER, _MOST_ANSWER = 128, 65_536
# Tokens beyond the targets', and what a limit is a multiple of.
_MARGIN, _STEP = 8, 8


def limit_for(p99: int, longest: int) -> int:
    """Returns the length limit of answers for training targets of such lengths in tokens.

    The margin over the 99th percentile is as much again, and no more than the longest target needs:
    only targets beyond twice the percentile, outliers, would be cut.

    >>> limit_for(19, 20), limit_for(60, 110), limit_for(60, 900)
    (32, 120, 128)
    """
    needed = min(max(longest, p99), 2 * p99) + _MARGIN
    return min(-(-needed // _STEP) * _STEP, _MOST_ANSWER)


class EvaluationSection(Section):
    """Decoding and scores."""

    metrics: Metrics = Field(
        default=["auto"],
        min_length=1,
        description="Metrics, combinations of them (sqrt(bleu*chrf++)) or module:function; the "
        "first is the main one. auto: chosen by the targets (labels, a translation, one short "
        "answer, or text).",
    )
    max_new_tokens: NewTokens = Field(
        default="auto",
        description="Longest prediction in tokens; auto: what 99 % of the training targets need "
        "and a margin, 128 for a base without an adapter.",
    )
    decoding: Literal["default", "checkpoint"] = Field(
        default="default",
        description="checkpoint: the base's own generation settings (beams, penalties, lengths) "
        "for keys that are at their defaults; default: none of them.",
    )
    num_beams: Beams = Field(default=1, description="Beams; 1 is greedy.")
    early_stopping: bool | None = Field(
        default=None,
        description="End a beam search with as many answers as beams; null: as the runtime does "
        "(torch: no, ct2: yes).",
    )
    length_penalty: LengthPenalty = Field(
        default=1.0,
        description="Exponent of the length that a beam's score is divided by; above 1 prefers "
        "longer answers.",
    )
    repetition_penalty: RepetitionPenalty = Field(
        default=1.0,
        description="Above 1 makes tokens that the answer has already less likely; 1 is off.",
    )
    no_repeat_ngram_size: NgramSize = Field(
        default=0, description="No sequence of this many tokens comes twice in an answer; 0 is off."
    )
    temperature: Temperature = Field(
        default=0.0,
        description="Above 0 samples, and divides the logits by it; 0 is greedy or beam search.",
    )
    top_p: TopP = Field(
        default=1.0,
        description="Sampling only among the most likely tokens that have this share together.",
    )
    seed: SamplingSeed = Field(
        default=42, description="Of sampling: the same answer to the same source, in any batch."
    )
    constraint: ConstraintValue = Field(
        default=None,
        description="What answers may be: labels (the training targets), a list of labels, "
        "`regex: …`, `json: FILE` (a JSON Schema) or `grammar: FILE` (GBNF); null: anything.",
    )
    n_best: NBest = Field(
        default=0,
        description="So many answers of each source with their log-probabilities: the best beams, "
        "or samples; 0 is off.",
    )
    mbr: Utility = Field(
        default=None,
        description="A metric: answer with the beam or sample that agrees most with the others by "
        "it (minimum Bayes risk); null is off.",
    )
    mbr_candidates: Candidates = Field(
        default=16,
        description="Samples that mbr chooses among; of beam search, all beams.",
    )
    batch_tokens: int = Field(default=8192, ge=16, description="Padded tokens decoded at once.")
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Score a fixed random sample of this many sources.",
    )

    def answer_tokens(self, trained: int | None) -> int:
        """Returns the length limit of answers; if ``auto``, the one that the targets call for."""
        return (trained or _BASE_ANSWER) if self.max_new_tokens == AUTO else self.max_new_tokens
