"""Writes what is installed as a CycloneDX bill of materials, from the packages' own metadata: no
network.

    python tools/sbom.py build/sbom.json

Ends with 1 where an installed package is older than pyproject.toml's floor (floors stand above
known holes).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

ROOT = "lora-s2s"


def canonical(name: str) -> str:
    """Returns a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def component(package: Distribution) -> dict[str, Any]:
    """Returns one package as CycloneDX has it."""
    name, said = canonical(package.metadata["Name"]), package.metadata
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in said.get_all("Classifier") or []
        if line[:7] == "License"
    ]
    licence = next(iter([*(said.get_all("License-Expression") or []), *classifiers]), None)
    reference = f"pkg:pypi/{name}@{package.version}"
    found = {
        "type": "library",
        "bom-ref": reference,
        "name": name,
        "version": package.version,
        "purl": reference,
    }
    return {**found, **({"licenses": [{"license": {"name": licence}}]} if licence else {})}


def bill() -> dict[str, Any]:
    """Returns the bill of everything installed beside the project."""
    packages = {
        canonical(package.metadata["Name"]): package
        for package in distributions()
        if package.metadata["Name"]
    }
    parts = [component(package) for name, package in sorted(packages.items()) if name != ROOT]
    serial = uuid5(NAMESPACE_URL, "\n".join(part["purl"] for part in parts))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": {**component(distribution(ROOT)), "type": "application"}},
        "components": parts,
    }


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.split("+")[0])]


def below_their_floor(required: list[str]) -> Iterator[str]:
    """Yields the requirements ``name>=version`` that what is installed does not meet."""
    for line in required:
        found = re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", line)
        if found and _numbers(distribution(found[1]).version) < _numbers(found[2]):
            yield f"{found[1]} {distribution(found[1]).version} is older than {found[2]}"


def main() -> None:
    """Writes the bill and checks the floors."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    made = bill()
    out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(f"{len(made['components'])} packages: {out}", file=sys.stderr)
    old = list(
        below_their_floor(
            [line for line in distribution(ROOT).requires or [] if "extra ==" not in line]
        )
    )
    sys.exit("\n".join(old) or 0)


if __name__ == "__main__":
    main()
