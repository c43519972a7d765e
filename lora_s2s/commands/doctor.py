"""``doctor``: what is wrong with this environment, and the command that fixes it."""

from __future__ import annotations

from typing import Annotated

import typer

from lora_s2s.commands._options import Json


def doctor(
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="Train, resume, merge and decode a tiny model on each device."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check versions, devices, memory, disk and hub; print the command that fixes each problem.

    A library that is missing or broken is a finding. Exits with code 5 if something is wrong.
    """
    from lora_s2s.console import counted, say, write_json
    from lora_s2s.errors import SetupError
    from lora_s2s.pipeline.doctor import examine

    report = examine(smoke=smoke)
    for check in report.checks:
        say(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")
        if not check.ok:
            say(f"     fix: {check.fix}")
    if json:
        write_json(report.to_dict())
    if wrong := [check.name for check in report.checks if not check.ok]:
        problem = f"{counted(len(wrong), 'problem')}: {', '.join(wrong)}"
        raise SetupError(problem, hint="run the fixes above, then lora-s2s doctor --smoke")
