"""The bill of materials names what is installed, and old packages are told."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_bill_names_what_is_installed(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "sbom.py"), str(tmp_path / "new" / "sbom.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bill = json.loads((tmp_path / "new" / "sbom.json").read_text(encoding="utf-8"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    found = {part["name"]: part for part in bill["components"]}
    assert {name: found[name]["version"] for name in ("torch", "peft")} == {
        name: version(name) for name in ("torch", "peft")
    }
    assert found["safetensors"]["purl"] == f"pkg:pypi/safetensors@{version('safetensors')}"
    assert str(ROOT) not in (tmp_path / "new" / "sbom.json").read_text(encoding="utf-8")


def test_what_is_older_than_its_floor_is_told() -> None:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "tools" / "sbom.py")
    assert spec
    assert spec.loader
    sbom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sbom)
    assert list(sbom.below_their_floor(["peft>=0.20", "numpy>=1.26"])) == []
    assert list(sbom.below_their_floor(["peft>=999.1"])) == [
        f"peft {version('peft')} is older than 999.1"
    ]
