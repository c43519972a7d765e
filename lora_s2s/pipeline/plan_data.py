"""The data that a plan counts: of an earlier run, or prepared in a temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lora_s2s.data.manifest import identity_of, reusable
from lora_s2s.data.prepared import PreparedDataset, is_prepared
from lora_s2s.data.split_files import with_split_files
from lora_s2s.display import PURPOSE, having
from lora_s2s.errors import SetupError
from lora_s2s.hub import DEMO_NAME, is_local, locate_model, only_cache
from lora_s2s.pipeline.prepare import prepare_data
from lora_s2s.pipeline.recipes import prepared_folder
from lora_s2s.recipe.schema import ModelSection, Recipe
from lora_s2s.tokens.encoder import encode_texts
from lora_s2s.tokens.files import TOKENIZER_FILES
from lora_s2s.tokens.loading import LANGUAGES, load_tokenizer


@contextmanager
def known_data(
    recipe: Recipe, prepared: PreparedDataset | None = None
) -> Iterator[tuple[PreparedDataset, list[str]]]:
    """Yields the recipe's data, prepared in a temporary folder if need be, and notes on it."""
    with tempfile.TemporaryDirectory(prefix="lora-s2s-") as folder, having(PURPOSE, "lengths: "):
        yield (prepared, []) if prepared else _data(recipe, Path(folder))


def _data(recipe: Recipe, folder: Path) -> tuple[PreparedDataset, list[str]]:
    """The recipe's prepared data: of an earlier run, or prepared in ``folder`` from the files as
    ``train`` reads them.
    """
    notes, earlier = [], prepared_folder(recipe)
    if not _has_tokenizer(recipe.model):
        notes = [
            f"the tokenizer of {recipe.model.name} is not on this machine: lengths are counted by "
            "the bundled base's, which splits words into more tokens"
        ]
        stand_in = recipe.model.model_copy(update={"name": DEMO_NAME, "revision": None})
        # The bundled base marks no text with a language.
        data = recipe.data.model_copy(update=dict.fromkeys(LANGUAGES))
        recipe = recipe.model_copy(update={"model": stand_in, "data": data})
    elif is_prepared(earlier) and (existing := _same(recipe, earlier)):
        return existing, []
    return prepare_data(recipe, folder / "prepared"), notes


def token_counts(
    sources: Sequence[str], targets: Sequence[str], model: ModelSection, **languages: str
) -> dict[str, list[int]]:
    """Tokens of texts by side, ``</s>`` included, as a base on this machine counts them."""
    tokenizer = load_tokenizer(model.name, model.revision, **languages)
    sides = {"source": (sources, "text"), "target": (targets, "text_target")}
    return {
        side: [len(ids) + 1 for ids in encode_texts(texts, tokenizer, side=kind)]
        for side, (texts, kind) in sides.items()
    }


def _has_tokenizer(model: ModelSection) -> bool:
    """Whether a base's tokenizer is on this machine; of one that is here, errors are its own."""
    name, revision = model.name, model.revision
    with only_cache(), suppress(SetupError):
        folder = locate_model(name, revision, weights=False)
        return is_local(name, revision) or any(
            (folder / file).is_file() for file in TOKENIZER_FILES
        )
    return False


def _same(recipe: Recipe, folder: Path) -> PreparedDataset | None:
    data = with_split_files(recipe.data)
    identity = identity_of(data, recipe.model, seed=recipe.training.seed, previews=3, strict=False)
    return reusable(folder, identity)
