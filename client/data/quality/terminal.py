"""The findings as a table on the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.data.quality.findings import CheckResult, Finding, Severity
from client.data.quality.stain import Drift
from common.text import count

_STYLE = {Severity.FAILURE: "bold red", Severity.WARNING: "yellow"}
_VERDICT = {"pass": "bold green", "warnings": "bold yellow", "fail": "bold red"}
_EXAMPLES = 3


def show(result: CheckResult, console: Console) -> None:
    """Print the findings, each with a few files as examples, and the verdict."""
    if result.findings:
        table = Table(title=f"{result.source}: {count(result.images, 'image')}", show_lines=True)
        table.add_column("")
        table.add_column("what was found", ratio=3)
        table.add_column("for example", ratio=2, overflow="fold")
        for finding in result.findings:
            table.add_row(*_row(finding))
        console.print(table)
    if result.drift:
        console.print(distance(result.drift), soft_wrap=True)
    for reason, number in result.passed_over.items():
        console.print(f"passed over: {number:,} {reason}")
    console.print(result.scale, soft_wrap=True)
    for remark in result.remarks:
        console.print(remark, style="yellow", markup=False, soft_wrap=True)
    types = count(len(result.counts), "label")
    verdict = Text(result.verdict.upper(), style=_VERDICT[result.verdict])
    console.print(verdict, f"{count(result.images, 'image')}, {types}")


def distance(drift: Drift) -> str:
    """Say in one line how far the stain lies from the reference's."""
    return (
        f"stain against {drift.reference}: nuclei {drift.nucleus:.1f}, background "
        f"{drift.background:.1f} Lab units apart over {count(len(drift.types), 'type')}; nuclei "
        f"are {drift.direction}"
    )


def _row(finding: Finding) -> tuple[Text, Text, Text]:
    what = Text(finding.what)
    what.append(f"\n{finding.advice}", style="dim")
    lines = []
    for case in finding.cases[:_EXAMPLES]:
        files = ", ".join(case.files[:2]) + (" ..." if len(case.files) > 2 else "")
        lines.append(f"{files} ({case.note})" if case.note else files)
    if len(finding.cases) > _EXAMPLES:
        lines.append(f"and {len(finding.cases) - _EXAMPLES:,} more")
    code = Text(f"{finding.severity.name.lower()}\n", style=_STYLE[finding.severity])
    code.append(finding.code, style="not bold")
    return code, what, Text("\n".join(lines))
