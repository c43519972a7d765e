"""Modules and ranks of an adapter made elsewhere, read from its weights; no pattern is evaluated.

PEFT takes ``target_modules``, ``rank_pattern`` and the like as regular expressions, whose matching
may never end. The names and shapes of the weights hold the same information:
``base_model.model.encoder.….q.lora_A.weight`` of shape (4, 512) is a module of rank 4. What no
weight shows, a pattern in ``alpha_pattern``, is accepted if it consists of plain names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from lora_s2s import limits
from lora_s2s.errors import DataError
from lora_s2s.lora.methods import Values
from lora_s2s.lora.schema import MERGE_IN_PEFT, NAME, AdapterSettings
from lora_s2s.lora.targets import matching

Shapes = Mapping[str, tuple[int, ...]]
Modules = Mapping[str, tuple[int, int]]
"""Full name → (output size, input size)."""
_PREFIX = "base_model.model."
_DEEPEST, _LONGEST_KEY = 64, 1000
# The weight whose rows are a module's rank, by the start of its name.
_RANK_WEIGHTS = ("lora_A", "hada_w1_b", "hira_A")


def selected(
    settings: AdapterSettings, modules: Modules, weights: Shapes, *, where: str
) -> dict[str, tuple[int, int]]:
    """Returns the modules of a base that an adapter is applied to.

    Args:
        modules: every module that may take an adapter.
        weights: name → shape of the adapter's weights, as its file has them.

    Raises:
        DataError: it is applied to a module that the base lacks, or to none at all.
    """
    spec = settings.target_modules
    if spec is None:
        on = {module for name in weights for module, _ in [_split(name, modules)] if module}
        if not on:
            problem = (
                "the adapter's target_modules is a pattern, and its weights name no module of this "
                "base"
            )
            raise DataError(
                problem, hint="if it was made for another base: --base NAME", where=where
            )
        return {name: shape for name, shape in modules.items() if name in on}
    excluded, layers = matching(settings.excluded, modules), frozenset(settings.layers)
    chosen = {
        name: shape
        for name, shape in matching(spec, modules).items()
        if name not in excluded
        and (not layers or name in spec or _layer(name, settings.layer_names) in layers)
    }
    if not chosen:
        listed = spec if isinstance(spec, str) else ", ".join(spec[:5])
        raise DataError(
            f"the adapter targets '{listed}', which this base does not have", where=where
        )
    return chosen


def settled_values(
    settings: AdapterSettings, chosen: Modules, weights: Shapes, *, where: str
) -> Values:
    """Returns PEFT's settings with every pattern replaced by the names of the modules it stands
    for.

    Raises:
        DataError: the weights do not show what a pattern stands for.
    """
    method, patterns = settings.method, settings.patterns
    usual_values = {**method.config().to_dict(), **settings.values}
    values = dict(settings.values)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in weights.items():
        module, rest = _split(name, chosen)
        if module:
            shapes.setdefault(module, {})[rest.split(".")[0]] = shape
    ranks = {
        name: shape[0]
        for name in chosen
        for part, shape in shapes.get(name, {}).items()
        if part in _RANK_WEIGHTS
    }
    for key, default in (("rank_pattern", "r"), ("alpha_pattern", method.alpha)):
        if key not in patterns or default is None:
            continue
        by_module: Mapping[str, float] | None = ranks if key == "rank_pattern" and ranks else None
        usual = usual_values[default]
        by_module = by_module or _by_names(patterns[key], chosen, usual)
        by_module = by_module or _by_rank(patterns, ranks, usual_values.get("r"), usual)
        if by_module is None:
            raise DataError(
                f"the adapter's {key} holds a pattern, which is not run: "
                f"'{_first_pattern(patterns[key])}'",
                hint=f"name the modules in it, each in full or by its ending; or {MERGE_IN_PEFT}",
                where=where,
            )
        if key == "rank_pattern" and not all(
            1 <= rank <= limits.LARGEST_RANK for rank in by_module.values()
        ):
            raise DataError(
                f"a rank in the adapter's weights is not from 1 to {limits.LARGEST_RANK}",
                where=where,
            )
        values[default], values[key] = _most_frequent_apart(by_module)
        if len(values[key]) > limits.MOST_RANKS:
            count, most = len(values[key]), limits.MOST_RANKS
            problem = (
                f"the adapter's {key} gives {count} modules a value of their own, at most {most}"
            )
            raise DataError(problem, hint=MERGE_IN_PEFT, where=where)
    renamed = settings.target_modules is None or settings.excluded or settings.layers
    if method.has("feedforward_modules") and (
        renamed or isinstance(values.get("feedforward_modules"), str)
    ):
        # IA3 scales the input of these, (1, inputs), and the output of the others, (outputs, 1).
        values["feedforward_modules"] = [
            name for name in chosen if shapes.get(name, {}).get("ia3_l", (0,))[0] == 1
        ]
    return values


def file_names(expected: Collection[str], found: Collection[str]) -> dict[str, str]:
    """Returns expected name → name in the file, which a plain ``state_dict`` extends by the name of
    the adapter.

    ``….lora_A.default.weight`` stands for ``….lora_A.weight``. Names that differ in any other way
    are returned as they are.
    """
    as_they_are = {name: name for name in found}
    first = next((name for name in found if name not in expected), None)
    if first is None or len(found) != len(expected):
        return as_they_are
    names = set(expected)
    labels = [label for label, name in _shortened(first) if name in names]
    renamed = {
        name: there
        for there in found
        for label, name in _shortened(there)
        if label in labels[:1] and name in names
    }
    return renamed if len(renamed) == len(names) else as_they_are


def _shortened(name: str) -> Iterable[tuple[str, str]]:
    """Yields each part of a dotted name with what the name is without it."""
    parts = name.split(".", _DEEPEST)
    for place, part in enumerate(parts):
        yield part, ".".join(parts[:place] + parts[place + 1 :])


def _split(name: str, modules: Collection[str]) -> tuple[str | None, str]:
    """Returns the module that a weight belongs to, and what follows it in the weight's name."""
    parts = name.removeprefix(_PREFIX).split(".", _DEEPEST)
    for end in range(len(parts) - 1, 0, -1):
        if (module := ".".join(parts[:end])) in modules:
            return module, ".".join(parts[end:])
    return None, name


def _layer(name: str, before: Collection[str]) -> int | None:
    """Returns the index of a module's layer as PEFT finds it: the first number after one of the
    given names.

    Args:
        before: names such as ``block``; if empty, the first number after at least two parts.
    """
    parts = name.split(".")
    numbered = [place for place in range(1, len(parts) - 1) if parts[place].isdecimal()]
    if not before:
        return next((int(parts[place]) for place in numbered if place > 1), None)
    for stem in before:
        for place in numbered:
            if f".{'.'.join(parts[:place])}".endswith(f".{stem}"):
                return int(parts[place])
    return None


def _by_names(
    pattern: Mapping[str, float], chosen: Modules, usual: float
) -> dict[str, float] | None:
    """Returns every module's value if all keys are plain names; the first that matches counts."""
    values: dict[str, float] = {}
    for key, value in pattern.items():
        names = _plain_names(key)
        if names is None:
            return None
        values.update({name: value for name in matching(names, chosen) if name not in values})
    return {name: values.get(name, usual) for name in chosen}


def _plain_names(key: str) -> list[str] | None:
    """Returns the names that a simple pattern stands for: ``^a\\.b$``, ``.*\\.q``, ``q|v``,
    ``(q|v)``; else None.
    """
    inner = key.removeprefix("^").removesuffix("$")
    inner = inner[1:-1] if inner.startswith("(") and inner.endswith(")") else inner
    names = [
        one.removeprefix(r".*\.").removeprefix(".*.").replace(r"\.", ".")
        for one in inner.split("|")
    ]
    return (
        names if len(key) <= _LONGEST_KEY and all(NAME.fullmatch(name) for name in names) else None
    )


def _by_rank(
    patterns: Mapping[str, Mapping[str, float]],
    ranks: Mapping[str, int],
    usual_rank: int | None,
    usual: float,
) -> dict[str, float] | None:
    """Returns every module's alpha if the same patterns set the ranks, each a different one: a
    module's rank then shows which pattern it matches.
    """
    by_rank, alphas = patterns.get("rank_pattern", {}), patterns.get("alpha_pattern", {})
    all_ranks = [usual_rank, *by_rank.values()]
    if not ranks or [*by_rank] != [*alphas] or len({*all_ranks}) < len(all_ranks):
        return None
    alpha_of = {rank: alphas[key] for key, rank in by_rank.items()}
    return {name: alpha_of.get(rank, usual) for name, rank in ranks.items()}


def _first_pattern(pattern: Mapping[str, float]) -> str:
    return next((key for key in pattern if _plain_names(key) is None), "")[:100]


def _most_frequent_apart(by_module: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """Returns the most frequent value, and the modules with another value."""
    ((usual, _),) = Counter(by_module.values()).most_common(1)
    return usual, {name: value for name, value in by_module.items() if value != usual}
