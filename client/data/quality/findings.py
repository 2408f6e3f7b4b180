"""What a check finds: data, which other modules show."""

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
    """One instance of a finding: an image, images that belong together, or a row of a table."""

    files: tuple[str, ...]
    """Names as the source has them; for an unusable row, its line and path."""
    note: str = ""
    """What is particular to this instance."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault, with every instance of it."""

    severity: Severity
    code: str
    """Short and stable, for scripts: `unreadable`, `duplicate-two-labels`, `blur`, ..."""
    what: str
    """The fault in words."""
    advice: str
    """What a person can do about it."""
    cases: tuple[Instance, ...] = ()
    leave_out: tuple[str, ...] = ()
    """The files that `data index --leave-out` leaves out without a person's decision: those that
    cannot be read, show nothing, are a further copy, or have two labels."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files of all instances, each once, in order."""
        return tuple(dict.fromkeys(name for case in self.cases for name in case.files))


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The findings on one source, and the figures of that source."""

    source: Path
    images: int
    """How many images the source lists, readable or not."""
    counts: dict[str, int]
    """Label -> images; an unknown label under its own name."""
    findings: tuple[Finding, ...]
    """Failures first."""
    profile: Profile
    """The colours of the source's readable images."""
    drift: Drift | None = None
    """The distance to the reference; None: no reference, or no type to compare."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Reason -> number of files that are not images, or are left out on purpose."""
    um_per_px: float | None = None
    """Scale of the pictures, micrometres a pixel; None: not known."""
    remarks: tuple[str, ...] = ()
    """What a person should know about the source and is no fault; a sentence each."""
    paths: dict[str, Path] = field(default_factory=dict, repr=False)
    """Name -> file, of the listed images in the findings."""

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
        """The exit code in a word: "pass", "warnings" or "fail"."""
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
