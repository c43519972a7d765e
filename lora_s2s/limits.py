"""Every bound on untrusted input, in one table: what it limits, and why it is that much.

`SECURITY.md` states these numbers; `tests/hostile/test_security_table.py` compares the two.
"""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Files read whole, by name or by suffix. The largest known vocabulary has 33 MiB, the largest
# config 30 KiB.
LARGEST_FILES = {
    "config.json": MIB,
    "generation_config.json": MIB,
    "adapter_config.json": MIB,
    "special_tokens_map.json": MIB,
    "recipe.yaml": MIB,
    "manifest.json": 8 * MIB,
    "tokenizer_config.json": 8 * MIB,
    "added_tokens.json": 8 * MIB,
    ".jinja": MIB,
    **dict.fromkeys((".json", ".model", ".spm", ".txt"), 64 * MIB),
}
# Any other file that is read whole.
LARGEST_FILE = 64 * MIB

# JSON-lines files of an adapter's folder, never decompressed: a million steps or answers.
LARGEST_JSON_LINES = {"metrics.jsonl": 256 * MIB, "predictions.jsonl": GIB}
LARGEST_JSON_LINES_FILE = GIB
# One line of them: a source, its references and two answers.
LONGEST_JSON_LINE = 8 * MIB

# Lists and objects in one tokenizer file: the 514,906 merges of Gemma's are a list each.
MOST_JSON_PARTS = 1_500_000

# Levels of lists and objects in a JSON file, and digits of an integer: the largest float has 309.
DEEPEST_JSON = 100
MOST_JSON_DIGITS = 300

# The header of a safetensors file: that of a model of 11 billion weights has 70 KiB.
LARGEST_SAFETENSORS_HEADER = 8 * MIB

# Weights that no file holds and a config asks for, such as tables of positions: Pegasus has two
# million.
MOST_COMPUTED_WEIGHTS = 4_000_000

# num_labels of a config, each of which becomes two entries of dictionaries.
MOST_LABELS = 100_000

# The child process that first opens a config and a tokenizer (lora_s2s/probe.py), beyond what its
# imports take: address space where the system can limit it, CPU seconds, and seconds on the clock
# from its start.
CHILD_MEMORY = 768 * MIB
CHILD_CPU_SECONDS = 8
CHILD_SECONDS = 60

# What a tokenizer's folder may ask for: Gemma adds 6,415 tokens, T5 counts its 100 sentinels.
MOST_ADDED_TOKENS = 20_000
MOST_EXTRA_IDS = 10_000
LONGEST_PATTERN = 500

# How many times longer a tokenizer's rules may make a text, at most and as measured on the child's
# texts: the longest expansion in Unicode is eighteenfold.
MOST_GROWTH = 1_000
MOST_GROWTH_SEEN = 64
# One token's text, and any other setting of a tokenizer: the longest known are 256 spaces or
# dashes.
LONGEST_TOKEN = 1_000
# What one character becomes by a tokenizer's character map.
LONGEST_REPLACEMENT = 256

# Files in additional_chat_templates, which transformers reads and nothing here uses.
MOST_CHAT_TEMPLATES = 64

# A recipe: bytes, YAML's events, levels.
LARGEST_RECIPE = 1_000_000
MOST_RECIPE_EVENTS = 20_000
DEEPEST_RECIPE = 8

# Templates, of a recipe or an adapter's manifest: how many, characters, parts of the syntax tree,
# the largest number in one, and how long a text may become.
MOST_TEMPLATES = 100
LONGEST_TEMPLATE = 20_000
MOST_TEMPLATE_NODES = 200
LARGEST_TEMPLATE_NUMBER = 10**6
LONGEST_TEXT = 10_000_000

# An adapter: rank, names in a list, modules with a rank of their own.
LARGEST_RANK = 4096
MOST_ADAPTER_NAMES = 10_000
MOST_RANKS = 500

# One record of a data file: a line, a CSV record, an element of a JSON array, a translation unit.
LONGEST_RECORD = 32 * MIB
# A data file that expands beyond both is a bomb: the best real text reaches a few hundredfold.
MOST_EXPANDED, MOST_FOLD = GIB, 500
# Columns of a table, fields of a record. A spreadsheet has 16,384 at most; text pairs need two.
MOST_COLUMNS = 4096
# The directory of a zip, which is read whole: one file needs about 100 bytes.
LARGEST_ZIP_DIRECTORY = MIB
# The largest pages of a Parquet row group, all columns together, and the rows taken from them at
# once.
LARGEST_PARQUET_PAGES, PARQUET_BATCH = 256 * MIB, 16 * MIB
# Replies repeat the turns before them: what the examples of one conversation may hold together.
LARGEST_CONVERSATION = 256 * MIB


def largest(name: str, suffix: str) -> int | None:
    """Returns the most bytes of a file that is read whole, by its name, else by its suffix; None:
    no bound known.
    """
    return LARGEST_FILES.get(name, LARGEST_FILES.get(suffix))


def in_words(size: int) -> str:
    """Returns a number of bytes for people: ``8 MiB``, ``1 GiB``."""
    unit, name = next(
        (unit, name)
        for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, "bytes"))
        if size >= unit or unit == 1
    )
    return f"{size / unit:,.4g} {name}"
