"""A model that is ready to answer: an adapter folder, a merged folder, a hub name, or the bundled
base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_s2s.documents import checked
from lora_s2s.errors import DataError, UsageError
from lora_s2s.examples.asking import question_of
from lora_s2s.examples.conversations import fit_turns
from lora_s2s.examples.example import Example, Unusable
from lora_s2s.examples.shapes import DIALOGUES
from lora_s2s.examples.template import check_recorded
from lora_s2s.hub import adapters_inside, no_adapter
from lora_s2s.lora.adapter import is_adapter, load_adapter
from lora_s2s.models.common import begin_answers
from lora_s2s.models.generation import not_used
from lora_s2s.models.loading import LoadedBase, load_base
from lora_s2s.records import AdapterManifest, InputSettings, ModelManifest
from lora_s2s.tokens.loading import LANGUAGES, load_tokenizer
from lora_s2s.tokens.special_tokens import first_ids
from lora_s2s.tokens.tokenise import encode_source


@dataclass(frozen=True)
class Predictor:
    """A model in evaluation mode, its tokenizer, and the input settings it was trained with.

    ``max_positions`` is how many tokens a source or an answer may have, None where the model sets
    no limit; ``rows`` how many tokens the model knows; ``not_used`` which of the checkpoint's
    generation settings answers do not follow.
    """

    name: str
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    settings: InputSettings = field(default_factory=InputSettings)
    has_adapter: bool = False
    adapter_on: bool = True
    max_positions: int | None = None
    rows: int | None = None
    not_used: str = ""

    def baseline(self) -> Predictor:
        """Returns the same predictor with its adapter switched off: the base, without a second copy
        of its weights.

        Raises:
            UsageError: there is no adapter to switch off (a merged or plain model).
        """
        if not self.has_adapter:
            raise UsageError(
                f"{self.name} is a whole model: nothing tells its base apart",
                hint="evaluate the adapter folder with --baseline, or evaluate the base by its own "
                "name",
            )
        return replace(self, adapter_on=False)

    @contextmanager
    def ready(self) -> Iterator[PreTrainedModel]:
        """Yields the model in evaluation mode, without gradients, its adapter on or off as
        asked.
        """
        self.model.eval()
        off = self.has_adapter and not self.adapter_on
        switch = self.model.disable_adapter() if off else nullcontext()
        with torch.inference_mode(), switch:
            yield self.model

    @property
    def max_source_tokens(self) -> int:
        """How many tokens a source may have, its frame included."""
        return min(
            self.settings.max_source_tokens, self.max_positions or self.settings.max_source_tokens
        )

    def encode(self, source: str) -> list[int]:
        """Returns the token ids of a rendered source, cut and framed as in training.

        Raises:
            DataError: the tokenizer was made for a larger vocabulary than the model's.
        """
        ids = self._cut(source, self.max_source_tokens)
        if self.rows is not None and max(ids, default=0) >= self.rows:
            message = (
                f"the tokenizer gives the token {max(ids)}, and the model has {self.rows:,}: they "
                "do not belong"
            )
            raise DataError(
                f"{message} together", hint="fetch the model's folder again", where=self.name
            )
        return ids

    def _cut(self, source: str, most: int) -> list[int]:
        side = self.settings.truncate_source
        return encode_source(source, self.tokenizer, max_source_tokens=most, truncate_source=side)

    def fitted(self, example: Example) -> str:
        """Returns an example's source, of a dialogue as many of its newest turns as the model reads
        at once.
        """
        if not example.turns:
            return example.source
        return fit_turns(example.turns, example.template, self.fits)

    def fits(self, source: str) -> bool:
        """Whether a rendered source is read without being truncated."""
        most = self.max_source_tokens
        return len(self._cut(source, most + 1)) <= most

    def render(self, row: str | Mapping[str, object]) -> str:
        """Returns the encoder's text for a plain text or a row, made where training's was made.

        A plain text is the source column, or the only one that the template needs; after training
        on dialogues, a user's turn. A dialogue loses its oldest turns where it would be too long.

        Raises:
            UsageError: a plain text where the template needs several columns.
            DataError: the row lacks the column, or it does not hold text.
        """
        return self.fitted(self.question(row))

    def question(self, row: str | Mapping[str, object]) -> Example:
        """Returns the example that :meth:`render` fits, with its whole source; raises likewise."""
        how, template = self.settings, self.settings.first_template
        try:
            return question_of(
                row, format=how.format, source_column=how.source_column, template=template
            )
        except Unusable as error:
            names = ", ".join(map(repr, row)) if isinstance(row, Mapping) else "a plain text"
            raise DataError(
                f"no source can be made of the row: {error}", hint=f"its columns: {names or 'none'}"
            ) from error


def load_predictor(
    name: str,
    *,
    base: str | None = None,
    device: str | torch.device | None = None,
    dtype: str = "auto",
) -> Predictor:
    """Loads whatever answers: an adapter folder, a model folder, a hub name, or ``demo``.

    Args:
        name: the folder or name.
        base: for an adapter, a base to use in place of the one its manifest names.
        device: a torch device; None takes the best one here.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        UsageError: no such model, or ``base`` for something that is not an adapter.
        DataError: the adapter or its manifest is refused.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and is_adapter(folder):
        adapter = load_adapter(folder, dtype=dtype, device=device, base_override=base)
        settings = input_settings(adapter.manifest.input, where=str(AdapterManifest.path(folder)))
        # Adapters made by plain PEFT come without a tokenizer; theirs is the base's.
        own = (folder / "tokenizer_config.json").is_file()
        place = (str(folder), None) if own else (adapter.base.name, adapter.base.revision)
        return _predictor(name, adapter.model, adapter.base, place, settings, has_adapter=True)
    if base is not None:
        raise UsageError(
            f"{name} is not an adapter, so it takes no other base", hint="leave --base away"
        )
    if any((folder / f"{side}_vocabulary.json").is_file() for side in ("shared", "target")):
        raise UsageError(
            f"{name} is an export for CTranslate2, which only that library runs",
            hint="name the adapter or model that it was made from; see README.md in it",
        )
    if folder.is_dir() and not (folder / "config.json").is_file() and adapters_inside(folder):
        raise no_adapter(folder)
    model = load_base(name, dtype=dtype, device=device)
    manifest = ModelManifest.read(model.path)
    settings = input_settings(manifest.input, where=str(ModelManifest.path(model.path)))
    predictor = _predictor(name, model.model, model, (name, None), settings)
    # The settings of a merged folder are those that it was scored with.
    return replace(predictor, not_used="") if manifest.decoding else predictor


def _predictor(
    name: str,
    model: PreTrainedModel,
    base: LoadedBase,
    place: tuple[str, str | None],
    settings: InputSettings,
    *,
    has_adapter: bool = False,
) -> Predictor:
    tokenizer = load_tokenizer(*place, **{key: getattr(settings, key) for key in LANGUAGES})
    begin_answers(model, **first_ids(tokenizer))
    most = base.family.max_positions(base.model.config)
    rows = len(model.get_input_embeddings().weight)
    return Predictor(
        name,
        model,
        tokenizer,
        settings,
        has_adapter=has_adapter,
        max_positions=most,
        rows=rows,
        not_used=not_used(model.generation_config),
    )


def input_settings(values: object, *, where: str) -> InputSettings:
    """Reads a manifest's ``input`` entry for answering: no answer drops its source, and of a
    dialogue the newest turns are kept.

    Raises:
        DataError: a value of the wrong type or out of range, or a template that is refused.
    """
    read = checked(AdapterManifest, {"input": values}, Path(where)).input
    check_recorded(read.template, where=where)
    left = read.truncate_source == "left" or read.format in DIALOGUES
    return read.model_copy(update={"truncate_source": "left" if left else "right"})
