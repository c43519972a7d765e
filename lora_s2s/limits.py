"""All bounds on untrusted input: what each limits, and why it has this value.

`SECURITY.md` states these numbers; `tests/hostile/test_security_table.py` compares the two.
"""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Files read into memory, by name or suffix. The largest known vocabulary has 33 MiB, the largest
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
    # A graph is one message of protobuf; larger weights are in a file beside it.
    ".onnx": 2 * GIB,
    **dict.fromkeys((".json", ".model", ".spm", ".txt"), 64 * MIB),
}
# Any other file that is read into memory.
LARGEST_FILE = 64 * MIB

# JSON-lines files of an adapter's folder, never decompressed: a million steps or answers.
LARGEST_JSON_LINES = {"metrics.jsonl": 256 * MIB, "predictions.jsonl": GIB}
LARGEST_JSON_LINES_FILE = GIB
# A line of these: a source, its references and two answers.
LONGEST_JSON_LINE = 8 * MIB

# Lists and objects in one tokenizer file: the 514,906 merges of Gemma's are a list each.
MOST_JSON_PARTS = 1_500_000

# Levels of lists and objects in a JSON file, and digits of an integer: the largest float has 309.
DEEPEST_JSON = 100
MOST_JSON_DIGITS = 300

# The header of a safetensors file: that of a model of 11 billion weights has 70 KiB.
LARGEST_SAFETENSORS_HEADER = 8 * MIB

# Weights that a config asks for and no file contains, such as position tables: Pegasus has two
# million.
MOST_COMPUTED_WEIGHTS = 4_000_000

# num_labels of a config; each label becomes two dictionary entries.
MOST_LABELS = 100_000

# The child process that first opens a config and a tokenizer (lora_s2s/probe.py): address space
# beyond its imports (if the system can limit it), CPU seconds, and wall-clock seconds.
CHILD_MEMORY = 768 * MIB
CHILD_CPU_SECONDS = 8
CHILD_SECONDS = 60

# Sizes that a tokenizer's folder may ask for: Gemma adds 6,415 tokens, T5 has 100 sentinels.
MOST_ADDED_TOKENS = 20_000
MOST_EXTRA_IDS = 10_000
LONGEST_PATTERN = 500

# Expansion of a text by a tokenizer's rules, by worst case and as measured on the child's texts:
# the longest expansion in Unicode is eighteenfold.
MOST_GROWTH = 1_000
MOST_GROWTH_SEEN = 64
# A token's text, and any other setting of a tokenizer: the longest known are 256 spaces or dashes.
LONGEST_TOKEN = 1_000
# Output of a tokenizer's character map for one character, in bytes.
LONGEST_REPLACEMENT = 256

# Files in additional_chat_templates, which transformers reads although nothing here uses them.
MOST_CHAT_TEMPLATES = 64

# A recipe: bytes, YAML events, nesting depth.
LARGEST_RECIPE = 1_000_000
MOST_RECIPE_EVENTS = 20_000
DEEPEST_RECIPE = 8

# Templates of a recipe or an adapter's manifest: count, characters, syntax-tree nodes, largest
# number, and characters of the rendered text.
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
# A data file that expands beyond both is refused: real text reaches a few hundredfold at most.
MOST_EXPANDED, MOST_FOLD = GIB, 500
# Columns of a table, fields of a record. A spreadsheet has 16,384 at most; text pairs need two.
MOST_COLUMNS = 4096
# The central directory of a zip file: one entry takes about 100 bytes.
LARGEST_ZIP_DIRECTORY = MIB
# The largest pages of a Parquet row group over all columns, and the rows converted at once.
LARGEST_PARQUET_PAGES, PARQUET_BATCH = 256 * MIB, 16 * MIB
# Every reply repeats the turns before it: all examples of one conversation together.
LARGEST_CONVERSATION = 256 * MIB

# Files that are fetched from object storage, all together; LORA_S2S_CACHE_GB sets another number.
LARGEST_REMOTE_CACHE = 100 * GIB

# Shards of data that is prepared in parts: each is a folder that is opened to join them.
MOST_SHARDS = 10_000

# A request to the server: bytes of its body, seconds until it has arrived, texts of one
# completion, messages of a conversation, characters of a stop string.
LARGEST_REQUEST, REQUEST_SECONDS = MIB, 30
MOST_PROMPTS, MOST_MESSAGES, LONGEST_STOP = 64, 1000, 200
# Characters of what a request asks of its answers: compiling them holds up all others.
LARGEST_REQUEST_CONSTRAINT = 8 * KIB

# What answers may be (evaluation.constraint): characters of a schema, grammar, expression or of all
# labels, and labels. A recipe and each evaluation of a manifest hold it.
LARGEST_CONSTRAINT, MOST_CONSTRAINT_LABELS = 128 * KIB, 10_000
# Levels of parentheses, and parts of a grammar, each as often as its repetitions say.
DEEPEST_CONSTRAINT, MOST_GRAMMAR_PARTS = 100, 50_000
# States of a regular expression that is made deterministic.
MOST_STATES = 5_000

# A folder that is published: files of it, and bytes of one, which the hub asks to keep to.
MOST_PUBLISHED, LARGEST_PUBLISHED = 10_000, 50 * GIB


def largest(name: str, suffix: str) -> int | None:
    """Returns the maximum bytes of a file, by its name, else by its suffix; None if not listed."""
    return LARGEST_FILES.get(name, LARGEST_FILES.get(suffix))


def in_words(size: int) -> str:
    """Formats a number of bytes: ``8 MiB``, ``1 GiB``."""
    unit, name = next(
        (unit, name)
        for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, "bytes"))
        if size >= unit or unit == 1
    )
    return f"{size / unit:,.4g} {name}"
