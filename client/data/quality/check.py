"""All checks of a source, put together."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from client.data.listing import ListedImage, listing
from client.data.patient_names import ALIKE, alike, unknown
from client.data.quality import duplicates, floors, names, outliers, stain
from client.data.quality.findings import CheckResult, Finding, Instance, Severity
from client.data.quality.measurements import Measured, Progress, measure_all
from client.data.stated_scale import look
from common.text import count

RARE = 10
"""A type with fewer images has hardly one image for validation and two for the test."""
NUCLEUS_DRIFT = 10.0
BACKGROUND_DRIFT = 8.0
"""Most Lab units between the colours of two sites, for nuclei and for backgrounds. Two small halves
of one lab lie up to 6 apart, and labs with different cameras or stains 18 and more."""


def check(
    source: Path,
    *,
    label_map: Mapping[str, str] | None = None,
    reference: Path | None = None,
    um_per_px: float | None = None,
    progress: Progress | None = None,
) -> CheckResult:
    """Check the images of `source`, class folders or a CSV; change nothing.

    Memory grows by about a kilobyte an image.

    Args:
        label_map: the lab's name -> cell type.
        reference: another source, or the JSON file of a profile or check, to compare the stain
            with.
        um_per_px: the scale of the source's pictures, micrometres a pixel; None: not known.
        progress: called with the numbers of images done and in all.

    Raises:
        DataError: there is no source, no image or no profile in the reference, or `label_map`
            names what is no cell type.
    """
    there = _reference(reference, label_map) if reference else None
    listed = listing(source, label_map)
    entries = listed.entries
    paths = [entry.path for entry in entries]
    measured = measure_all([str(path) for path in paths], progress, um_per_px)
    here = _profile(entries, measured)
    drift = stain.drift(here, there, str(reference)) if there else None
    found = [
        *_unreadable(entries, measured),
        *_refused(entries, measured),
        *names.findings(listed),
        *duplicates.findings(entries, measured),
        *patients(entries),
        *types(entries),
        *floors.findings(entries, measured),
        *outliers.findings(entries, measured),
        *_drift(drift),
    ]
    found.sort(key=lambda finding: -finding.severity.value)
    shown = {name for finding in found for name in finding.files}
    return CheckResult(
        source=source,
        images=len(entries),
        counts=dict(sorted(Counter(entry.label for entry in entries).items())),
        findings=tuple(found),
        profile=here,
        drift=drift,
        passed_over=dict(listed.passed_over),
        um_per_px=um_per_px,
        remarks=tuple(
            filter(
                None,
                [
                    *listed.remarks,
                    unknown([entry.patient for entry in entries]),
                    *(f"scale: {said}" for said in look(paths, um_per_px)),
                ],
            )
        ),
        paths={entry.name: entry.path for entry in entries if entry.name in shown},
    )


def _reference(path: Path, label_map: Mapping[str, str] | None) -> stain.Profile:
    if path.suffix.lower() == ".json":
        return stain.read_profile(path)
    entries = listing(path, label_map).entries
    return _profile(entries, measure_all([str(entry.path) for entry in entries]))


def _profile(entries: Sequence[ListedImage], measured: Measured) -> stain.Profile:
    rows = measured.readable
    nucleus, background = (measured.records[name][rows] for name in ("nucleus", "background"))
    return stain.profile(nucleus, background, [entries[row].label for row in rows])


def _unreadable(entries: Sequence[ListedImage], measured: Measured) -> list[Finding]:
    if not measured.errors:
        return []
    return [
        Finding(
            severity=Severity.FAILURE,
            code="unreadable",
            what=f"{count(len(measured.errors), 'image is', 'images are')} damaged or cut short",
            advice="Copy them again from where they came from, or leave them out.",
            leave_out=tuple(entries[row].name for row in sorted(measured.errors)),
            cases=tuple(
                Instance(files=(entries[row].name,), note=reason)
                for row, reason in sorted(measured.errors.items())
            ),
        )
    ]


def _refused(entries: Sequence[ListedImage], measured: Measured) -> list[Finding]:
    if not measured.refused:
        return []
    return [
        Finding(
            severity=Severity.FAILURE,
            code="form",
            what=f"{count(len(measured.refused), 'picture has', 'pictures have')} no one meaning "
            "as that of a cell",
            advice="Export them as said, or leave them out; docs/pictures.md has the rules.",
            leave_out=tuple(
                entries[row].name
                for row in sorted(measured.refused)
                # If most pictures are refused for the scale, the scale is wrong, not they.
                if row not in measured.scaled or len(measured.scaled) <= len(measured.readable)
            ),
            cases=tuple(
                Instance(files=(entries[row].name,), note=reason)
                for row, reason in sorted(measured.refused.items())
            ),
        )
    ]


def patients(entries: Sequence[ListedImage]) -> list[Finding]:
    """Find patients whose cells lie in two splits, or only partly have a split, and like names.

    Like names may belong to one patient (see `alike`).
    """
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    files: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        if entry.patient:
            splits[entry.patient][entry.split] += 1
            files[entry.patient].append(entry.name)
    torn: list[Instance] = []
    partly: list[Instance] = []
    for patient, found in sorted(splits.items()):
        if len(found) > 1:
            kind = torn if len(found.keys() - {""}) > 1 else partly
            kind.append(Instance(files=tuple(files[patient]), note=_spread(patient, found)))
    return [*_torn(torn), *_partly(partly), *_alike(files)]


def _alike(files: Mapping[str, Sequence[str]]) -> list[Finding]:
    groups = alike(files)
    if not groups:
        return []
    return [
        Finding(
            severity=Severity.WARNING,
            code="patients-alike",
            what=f"{count(len(groups), 'patient')} under two names perhaps, which differ {ALIKE} "
            "alone",
            advice="If they are one, name it one way: else its cells count as those of several "
            "patients, and may come to lie in several splits.",
            cases=tuple(
                Instance(
                    files=tuple(name for one in group for name in files[one]), note=", ".join(group)
                )
                for group in groups
            ),
        )
    ]


def _spread(patient: str, found: Counter[str]) -> str:
    numbers = ", ".join(
        f"{number} in {split}" if split else f"{number} without a split"
        for split, number in sorted(found.items(), key=lambda item: (not item[0], item[0]))
    )
    return f"patient {patient}: {numbers}"


def _torn(cases: list[Instance]) -> list[Finding]:
    if not cases:
        return []
    return [
        Finding(
            severity=Severity.FAILURE,
            code="patient-in-two-splits",
            what=f"{count(len(cases), 'patient has', 'patients have')} cells in two splits",
            advice="Give all of a patient's cells one split, or leave the column split empty. A "
            "study that protects patients goes by none of a patient's splits that contradict.",
            cases=tuple(cases),
        )
    ]


def _partly(cases: list[Instance]) -> list[Finding]:
    if not cases:
        return []
    said = count(len(cases), "patient has", "patients have")
    return [
        Finding(
            severity=Severity.WARNING,
            code="patient-split-in-part",
            what=f"{said} a split for some cells and none for others",
            advice="Give all of a patient's cells the split: a study that protects patients goes "
            "by a split that all of a patient's cells have, one that protects images takes a "
            "split for its own image alone.",
            cases=tuple(cases),
        )
    ]


def types(entries: Sequence[ListedImage]) -> list[Finding]:
    """Find cell types with fewer than `RARE` images, and a source with one type only."""
    counts = Counter(entry.label for entry in entries if entry.known)
    found = []
    rare = [f"{label} ({number})" for label, number in sorted(counts.items()) if number < RARE]
    if rare:
        found.append(
            Finding(
                severity=Severity.WARNING,
                code="rare-type",
                what=f"Fewer than {RARE} images of {', '.join(rare)}",
                advice="Add images, or leave these types out of the study here: no metric of "
                "theirs will mean much.",
            )
        )
    if len(counts) == 1:
        found.append(
            Finding(
                severity=Severity.WARNING,
                code="one-type",
                what=f"Every image is of one type, {next(iter(counts))}",
                advice="A site with one type teaches a model little alone; check that nothing is "
                "missing.",
            )
        )
    return found


def _drift(drift: stain.Drift | None) -> list[Finding]:
    if drift is None or (drift.nucleus <= NUCLEUS_DRIFT and drift.background <= BACKGROUND_DRIFT):
        return []
    return [
        Finding(
            severity=Severity.WARNING,
            code="stain-drift",
            what=f"Colours lie {drift.nucleus:.0f} (nuclei) and {drift.background:.0f} "
            f"(background) Lab units from {drift.reference}: nuclei are {drift.direction}",
            advice="Compare stain, scanner and white balance. A model trained there may fail here; "
            "colour augmentation and federated training help.",
        )
    ]
