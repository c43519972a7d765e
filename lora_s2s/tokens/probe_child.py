"""Run by :mod:`lora_s2s.probe` in a separate process: opens and uses a folder's config and
tokenizer once.

The first line on stdin is the request; on stdout there is a JSON line for every stage, and one at
the end. It imports nothing from this package, and transformers without torch, so that it starts
within a second.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Heavy packages that reading a config or a tokenizer does not need.
_NOT_NEEDED = """
    torch tensorflow jax flax sklearn scipy pandas PIL datasets pyarrow peft
""".split()
_FORBIDDEN = tuple(
    """
    socket.connect socket.getaddrinfo socket.bind subprocess.Popen os.system os.exec
    os.posix_spawn os.fork os.remove os.rename shutil.rmtree ctypes.dlopen
""".split()
)
_SENTENCES = (
    "A table for two on Friday at 7:45, please.",
    "  spaces \t tabs \r\n\n lines  ",
    "Ünïcödé façade naïve Straße İI",
    "Привет, мир! Καλημέρα κόσμε",
    "שלום עולם ﷺ السلام عليكم",
    "नमस्ते दुनिया สวัสดีชาวโลก",
    "你好，世界。こんにちは 한국어",
    "👩‍👩‍👧‍👦 🇩🇪 ﬁ ½ ⅷ ㌔ ａｂｃ e\u0301\u0323 \u200b\u200d\ufeff",
    "<pad> </s> <extra_id_0> <unk> [MASK] <|x|> ▁ Ġ ##a @@",
    'https://example.org/?q=a&b=%20#c {"k": [1, 2.5e-3]} \\n $x^2$ `code`',
    "\x00\x01\x7f\x85\u2028\ufffd",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_TOKENIZER_NAMES = (
    "tokenizer",
    "vocab",
    "merges",
    "added_tokens",
    "special_tokens_map",
    "tekken",
    "tiktoken",
)
_VOCABULARIES = (".model", ".spm", "_vocab.json")
_LINE, _REPEATS, _CHUNK = 64, 500, 256


class Refused(Exception):
    """The file does something that no config or tokenizer needs."""


def texts() -> Iterator[str]:
    """Yields sentences, every character up to U+FFFF and some beyond, and characters repeated."""
    yield from _SENTENCES
    points = [
        point
        for point in (*range(0x10000), *range(0x10000, 0x110000, 97))
        if not 0xD800 <= point < 0xE000
    ]
    for start in range(0, len(points), _LINE):
        yield "".join(map(chr, points[start : start + _LINE]))
    yield from (character * _REPEATS for character in map(chr, range(32, 127)))
    yield from (f"{sentence} " * 20 for sentence in _SENTENCES)


def open_config(folder: Path) -> None:
    """Builds the config as loading a model or a tokenizer does."""
    from transformers import AutoConfig, PreTrainedConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    except ValueError:  # an unknown model type, which a tokenizer does not need
        config = PreTrainedConfig.from_pretrained(folder, local_files_only=True)
    # Configs are copied, compared and written, so their serialised form must stay small.
    json.dumps(config.to_dict(), default=str)


def open_generation_config(folder: Path) -> None:
    """Builds the generation config as loading a model does."""
    from transformers import GenerationConfig

    GenerationConfig.from_dict(json.loads((folder / "generation_config.json").read_text("utf-8")))


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder has a file that transformers could read as a tokenizer."""
    return any(
        path.name.startswith(_TOKENIZER_NAMES) or path.name.endswith(_VOCABULARIES)
        for path in folder.iterdir()
    )


def open_tokenizer(folder: Path) -> Any:
    """Loads the tokenizer as :func:`lora_s2s.tokens.loading.load_tokenizer` does."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, clean_up_tokenization_spaces=False, local_files_only=True
    )


def use_tokenizer(tokenizer: PreTrainedTokenizerBase, bounds: Mapping[str, int]) -> None:
    """Encodes all texts and decodes all tokens.

    Raises:
        Refused: text expands beyond the bounds.
    """
    growth = bounds["growth"]
    # Without a target language there is no target side to encode.
    sides = ("text", "text_target") if getattr(tokenizer, "tgt_lang", "") is not None else ("text",)
    for side in sides:
        whole, bare = (
            tokenizer(**{side: "a"}, add_special_tokens=added)["input_ids"]
            for added in (True, False)
        )
        if len(whole) > len(bare) + _LINE:
            raise Refused(f"{len(whole) - len(bare):,} special tokens around a text")
    pipeline = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = getattr(pipeline, "normalizer", None)
    for text in texts():
        made = len(normalizer.normalize_str(text)) if normalizer is not None else 0
        if made > growth * (len(text) + 1):
            raise Refused(f"its normalizer makes {made:,} characters of {len(text):,}")
        ids = len(_encoded(tokenizer, pipeline, text))
        if ids > growth * (len(text.encode("utf-8", "replace")) + 1):
            raise Refused(f"{ids:,} tokens of a text of {len(text):,} characters")
    _decode_all(tokenizer, bounds)


def _encoded(tokenizer: PreTrainedTokenizerBase, pipeline: Any, text: str) -> list[int]:
    if pipeline is None:
        return list(
            tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)[
                "input_ids"
            ]
        )
    pipeline.no_truncation()
    pipeline.no_padding()
    pipeline.encode_special_tokens = True
    return list(pipeline.encode_batch_fast([text], add_special_tokens=False)[0].ids)


def _decode_all(tokenizer: PreTrainedTokenizerBase, bounds: Mapping[str, int]) -> None:
    ids = sorted(set(tokenizer.get_vocab().values()))
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        lengths = [len(token or "") for token in tokenizer.convert_ids_to_tokens(chunk)]
        if max(lengths) > bounds["token"]:
            raise Refused(f"a token of {max(lengths):,} characters")
        made = _decoded(tokenizer, chunk)
        if made > bounds["growth"] * (sum(lengths) + len(chunk)):
            raise Refused(f"its decoder makes {made:,} characters of {len(chunk):,} tokens")


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> int:
    """Returns the length of the decoded tokens, one by one if they do not decode together."""
    try:
        return len(
            tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        return sum(_decoded(tokenizer, [token]) for token in ids) if len(ids) > 1 else 0


def opened(
    folder: Path, bounds: Mapping[str, int], begin: Callable[[str], object]
) -> dict[str, str] | None:
    """Opens and uses the files of a folder; returns None, or the kind and text of the failure.

    Args:
        begin: called with the name of each stage: ``config``, ``generation config``,
            ``tokenizer``, ``use``.
    """
    try:
        if (folder / "config.json").is_file():
            begin("config")
            open_config(folder)
        if (folder / "generation_config.json").is_file():
            begin("generation config")
            open_generation_config(folder)
        if has_tokenizer(folder):
            begin("tokenizer")
            tokenizer = open_tokenizer(folder)
            begin("use")
            use_tokenizer(tokenizer, bounds)
    except BaseException as error:
        # A panic in Rust code is a BaseException; this process ends here in any case.
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return {"kind": type(error).__name__, "reason": " ".join(str(error).split())[:300]}
    return None


def _limit(memory: int, seconds: int) -> None:
    """Limits address space and CPU time from here on; disables core dumps and writing files."""
    try:
        import resource
    except ImportError:  # Windows: only the parent's timeout applies
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    space = Path("/proc/self/statm")
    bounds = [
        (resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ]
    if space.is_file():
        now = int(space.read_text("utf-8").split()[0]) * resource.getpagesize()
        bounds.append((resource.RLIMIT_AS, now + memory))
    for kind, most in bounds:
        _, hard = resource.getrlimit(kind)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_FORBIDDEN) or (event == "open" and arguments[2] & _WRITING):
        raise PermissionError(f"{event} is not allowed here")


def _quiet() -> int:
    """Discards the output of libraries; returns a descriptor of the original stdout."""
    report, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    return report


def main() -> None:
    """Reads the request, limits the process, opens and uses the files, and reports."""
    order = json.loads(sys.stdin.readline())
    report = _quiet()

    def say(**line: Any) -> None:
        os.write(report, json.dumps(line).encode() + b"\n")

    sys.path[:] = order["path"]
    modules: dict[str, Any] = sys.modules
    # Importing a module that is None fails as if it were not installed.
    modules.update(dict.fromkeys(_NOT_NEEDED))
    warnings.simplefilter("ignore")
    _import_all(("transformers", "tokenizers", "sentencepiece", "google.protobuf"))
    say(stage="limits")
    sys.addaudithook(_forbid)
    _limit(order["memory"], order["seconds"])
    say(end=opened(Path(order["folder"]), order["bounds"], lambda stage: say(stage=stage)))


def _import_all(names: Iterable[str]) -> None:
    from contextlib import suppress
    from importlib import import_module

    for name in names:
        with suppress(ImportError):
            import_module(name)
    # transformers imports lazily: accessed here so that they load before the limits apply.
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    del AutoConfig, AutoTokenizer, GenerationConfig


if __name__ == "__main__":
    main()
