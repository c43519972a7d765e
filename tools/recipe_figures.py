"""Writes the lines Memory and Time of the shipped recipes: what training on rows of their shape
takes on their machine, by plan.

python tools/recipe_figures.py            write the lines
python tools/recipe_figures.py --check    say whether the committed lines are these
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_s2s.machine import sized
from lora_s2s.pipeline.base_choice import Machine, in_time, machine_with, needed, sizes_known
from lora_s2s.pipeline.planned import Device, Memory, Planned, Rows, peak_of
from lora_s2s.recipe.catalogue import about, shipped
from lora_s2s.recipe.defaults import Facts, Lengths, resolve
from lora_s2s.recipe.load import load_recipe

_SHAPE = re.compile(
    r"about (\d+) → (\d+) tokens .*at most ([\d,]+) → ([\d,]+); ([\d,]+) (?:rows|pairs)"
)
_LONG = 0.02  # of the rows, which are as long as they may be
_MOST_ROWS = 2_000  # that are laid out; the others are like them
_LIBRARIES = 600_000_000
_LAPTOP = Machine(Device("cpu", 8 * 10**9), 8 * 10**9, 4, "4 cores")


@dataclass(frozen=True)
class Shape:
    """Mean and longest lengths of both sides, and the number of rows."""

    mean: tuple[int, int]
    longest: tuple[int, int]
    rows: int

    @classmethod
    def of(cls, text: str) -> Shape:
        """Reads a recipe's line Shape."""
        match = _SHAPE.search(text)
        if match is None:
            raise ValueError(f"no lengths and rows in: {text}")
        numbers = [int(number.replace(",", "")) for number in match.groups()]
        return cls((numbers[0], numbers[1]), (numbers[2], numbers[3]), numbers[4])

    def laid_out(self) -> Rows:
        """Rows of these lengths."""
        count = min(self.rows, _MOST_ROWS)
        is_long = np.arange(count) % round(1 / _LONG) == 0
        sides = [
            np.where(is_long, longest, mean)
            for mean, longest in zip(self.mean, self.longest, strict=True)
        ]
        return Rows(sides[0], sides[1], 0)

    def facts(self, rows: Rows, parameters: int, device: str) -> Facts:
        """What the values of ``auto`` follow from."""
        share = self.rows / len(rows)
        lengths = [
            Lengths(round(float(tokens.sum()) * share), mean, mean, longest, longest)
            for tokens, mean, longest in zip(
                (rows.sources, rows.targets), self.mean, self.longest, strict=True
            )
        ]
        source, target = lengths
        return Facts(self.rows, source, target, self.rows, 0, parameters, device)


def of_steps(memory: Memory) -> float:
    """The bytes of the training steps: the first batch is compared on fewer rows if it must be."""
    lasting = memory.weights_bytes + memory.adapter_bytes
    step = memory.activations_bytes + memory.logits_bytes + memory.temporary_bytes
    step += memory.optimizer_bytes
    held = (memory.total_bytes - memory.libraries_bytes) / (
        lasting + max(step, memory.comparison_bytes)
    )
    return memory.libraries_bytes + held * (lasting + step)


def figures(name: str, path: Path) -> tuple[str, str]:
    """The texts of Memory and Time of a recipe.

    Raises:
        ValueError: it does not fit its machine.
    """
    recipe, heading = load_recipe(name), about(path)
    has_gpu = heading.machine != "CPU"
    machine = machine_with(heading.machine.replace(" GB GPU", "GiB")) if has_gpu else _LAPTOP
    base, shape = sizes_known(recipe.model), Shape.of(heading.shape)
    if base is None:
        raise ValueError(f"{name}: the sizes of {recipe.model.name} are not known")
    rows = shape.laid_out()
    facts = shape.facts(rows, base.parameters, machine.device.kind)
    need = needed(recipe, base, facts, rows, machine)
    settled = resolve(recipe, facts)
    taken = of_steps(peak_of(Planned(settled, base, rows, machine.device, _LIBRARIES)))
    if taken > machine.memory:
        raise ValueError(f"{name}: takes {sized(taken)} of {heading.machine}")
    has = heading.machine[:-4] if has_gpu else "8 GB"
    memory = f"{sized(taken)} of {has}, by plan."
    on = "4 CPU cores" if machine is _LAPTOP else "a GPU as fast as a T4"
    return memory, f"about {in_time(need.seconds)} on {on}, by plan; not measured."


def main() -> None:
    """Writes the lines, or with ``--check`` exits 1 where the committed ones say something else."""
    changed = []
    for name, path in shipped().items():
        text = path.read_text(encoding="utf-8")
        memory, time = figures(name, path)
        written = re.sub(r"^# Memory: .*", f"# Memory: {memory}", text, flags=re.MULTILINE)
        written = re.sub(r"^# Time: .*", f"# Time: {time}", written, flags=re.MULTILINE)
        if written != text:
            changed.append(name)
            print(f"{name}: {memory} {time}")
        if "--check" not in sys.argv:
            path.write_text(written, encoding="utf-8")
    if changed and "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(changed)}; run: python tools/recipe_figures.py")


if __name__ == "__main__":
    main()
