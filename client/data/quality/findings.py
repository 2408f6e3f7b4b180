"""What a check found: data, not text on a terminal."""

from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from client.data.quality.stain import Drift, Profile
from client.data.scale import NO_SCALE

PASS, WARNINGS, FAIL = 0, 10, 20


class Severity(Enum):
    """How bad a finding is; the value is the exit code of a check with nothing worse."""

    WARNING = WARNINGS
    """Worth a look; training can go on."""
    FAILURE = FAIL
    """Training would stop, or its result would mislead."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One instance of a finding: an image, or images that belong together."""

    files: tuple[str, ...]
    """Names as the source has them."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of trouble, with every instance of it."""

    severity: Severity
    code: str
    """Short and stable, for scripts: `unreadable`, `two-labels`, `blur`, ..."""
    what: str
    advice: str
    cases: tuple[Instance, ...] = ()
    leave_out: tuple[str, ...] = ()
    """The files that the advice says to leave out, where that needs no person: what cannot be
    read, shows nothing, is there once more, or has two labels."""

    @property
    def files(self) -> tuple[str, ...]:
        """Every file in it, each once, in order."""
        return tuple(dict.fromkeys(name for case in self.cases for name in case.files))


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The findings on one source, worst first, and what they were drawn from."""

    source: Path
    images: int
    """Images listed, readable or not."""
    counts: dict[str, int]
    """Label -> images; an unknown label by its own name."""
    findings: tuple[Finding, ...]
    profile: Profile
    drift: Drift | None = None
    """Against the reference, where one was given."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Reason -> files that are not images or were left out on purpose."""
    um_per_px: float | None = None
    """Scale of the pictures; None: not known."""
    remarks: tuple[str, ...] = ()
    """What a person should know of the source, a sentence each; no fault."""
    paths: dict[str, Path] = field(default_factory=dict, repr=False)
    """Name -> file, of the images in the findings."""

    @property
    def scale(self) -> str:
        """The scale in words."""
        if self.um_per_px is None:
            return f"scale: not known: {NO_SCALE}"
        return f"scale: {self.um_per_px:g} um a pixel"

    @property
    def exit_code(self) -> int:
        """0: nothing found; 10: warnings only; 20: at least one failure."""
        return max((finding.severity.value for finding in self.findings), default=PASS)

    @property
    def verdict(self) -> str:
        return {PASS: "pass", WARNINGS: "warnings", FAIL: "fail"}[self.exit_code]

    def to_json(self) -> dict[str, Any]:
        """Everything but the paths, as JSON types."""
        return {
            "source": str(self.source.resolve()),
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "images": self.images,
            "counts": self.counts,
            "passed_over": self.passed_over,
            "um_per_px": self.um_per_px,
            "remarks": list(self.remarks),
            "findings": [
                {**asdict(finding), "severity": finding.severity.name.lower()}
                for finding in self.findings
            ],
            "drift": asdict(self.drift) if self.drift else None,
            "profile": self.profile.to_json(),
        }
