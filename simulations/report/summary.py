"""Summarises a run: summary.json, and the example predictions for the report."""

import importlib.metadata
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from client.ledger.spending import spent_epsilon
from client.site import open_site
from client.training.evaluation import predict
from client.training.workspace import workspace
from common.cell_types import CELL_TYPES
from common.config.distributed import noise_shares
from common.config.study import Study
from common.files import replacing, write_text
from common.metrics import NAMES, Tally
from common.models import trainable
from common.models.classifier import parameter_count
from common.models.released import MODEL, read_model
from common.privacy.accounting import ACCOUNTANT, ADJACENCY, study_event
from common.privacy.planning.plausibility import doubts, expected_units
from common.privacy.planning.statistics_precision import statistics_forecast
from server.rounds.cell_statistics import CellStatistics
from server.rounds.record import read
from server.rounds.rounds import OUTCOME
from simulations.config import Simulation
from simulations.experiments import CENTRALISED, LOCAL, PlannedStudy
from simulations.host_info import machine
from simulations.labs import Labs
from simulations.partition import POOLED, DealtSite
from simulations.report.description import read_description
from simulations.report.judged import Judged, judge

_LOOKED_AT = 24
"""How many test cells per class and site are searched for a right and a wrong example."""


def summarise(
    simulation: Simulation,
    sites: tuple[DealtSite, ...],
    plans: list[PlannedStudy],
    labs: Labs,
    given_up: Mapping[str, str],
) -> dict[str, Any]:
    """Return the summary of finished plans.

    Args:
        simulation: the run's config.
        sites: the sites as they were dealt.
        plans: the federation's plan, then the baselines'.
        labs: the labs' cells.
        given_up: baseline -> why it could not continue; these plans are not finished.

    Returns:
        The content of summary.json.
    """
    federation = plans[0]
    study, outcome = federation.study, _outcome(federation)
    tallies, judged = _tallies(federation), _judged(federation)
    pooled = _pooled(federation)
    per_class = dict(zip(study.cell_types, pooled.per_class(), strict=True))
    rounds = read(federation.folder)
    return {
        "name": study.name,
        "description": read_description(federation.folder, study),
        "data": labs.kind,
        "left_out": {lab: list(lines) for lab, lines in labs.said.items()},
        "seed": study.seed,
        "digest": study.digest,
        "rounds": outcome["rounds"],
        "best_round": outcome["best_round"],
        "stopped": outcome["stopped"],
        "seconds": outcome["seconds"],
        "bytes_up": outcome["bytes_up"] + sum(one.bytes_up for one in rounds),
        "bytes_down": outcome["bytes_down"] + sum(one.bytes_down for one in rounds),
        "model": _model(study, federation),
        "cell_types": list(study.cell_types),
        **_figures(pooled, _of_training(judged, federation)),
        "intervals_over": "patients" if judged else "cells",
        "per_class": per_class,
        "confusion": pooled.confusion.tolist(),
        "sites": {
            site.name: _site(site, federation, tallies, judged.get(site.name)) for site in sites
        },
        "baselines": _baselines([plan for plan in plans if plan.name not in given_up]),
        "baselines_given_up": dict(given_up),
        "privacy": _privacy(study),
        "statistics": _statistics(federation),
        "machine": machine(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("hemofed", "flwr", "torch", "opacus")
        },
    }


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Write the summary to `out/summary.json`."""
    write_text(out / "summary.json", json.dumps(summary, indent=2))


def write_examples(federation: PlannedStudy, path: Path) -> None:
    """Write example test cells with the released model's predictions to `path`, as an .npz."""
    study, found = federation.study, []
    for file in federation.site_files:
        found += _site_examples(federation, file)
    chosen = _choose(found, len(study.cell_types))
    side = study.image_side
    images = np.stack([e["image"] for e in chosen]) if chosen else np.zeros((0, side, side, 3))
    with replacing(path) as temporary, temporary.open("wb") as file_handle:
        np.savez_compressed(
            file_handle,
            images=images.astype(np.uint8),
            label=np.array([e["label"] for e in chosen], np.int64),
            predicted=np.array([e["predicted"] for e in chosen], np.int64),
            confidence=np.array([e["confidence"] for e in chosen], np.float64),
            site=np.array([e["site"] for e in chosen], "U64"),
        )


def _site_examples(plan: PlannedStudy, file: Path) -> list[dict[str, Any]]:
    """Return predictions for the first few test cells of each class of a site."""
    site, study = open_site(file), plan.study
    bench = workspace(site, study)
    bench.model.load_state_dict(read_model(plan.folder / MODEL))
    inputs = bench.inputs
    test = inputs.cells.rows("test")
    labels = inputs.cells.labels[test]
    few = np.concatenate(
        [test[labels == k][:_LOOKED_AT] for k in range(len(study.cell_types))]
    ).astype(np.int64)
    if not len(few):
        return []
    probabilities, images = predict(inputs, few), inputs.cells.take(few)
    return [
        {
            "image": images[n],
            "label": int(inputs.cells.labels[row]),
            "predicted": int(probabilities[n].argmax()),
            "confidence": float(probabilities[n].max()),
            "site": site.name,
        }
        for n, row in enumerate(few)
    ]


def _choose(found: list[dict[str, Any]], classes: int) -> list[dict[str, Any]]:
    """Choose a right and a wrong example of each class, if there are any, from varying sites."""
    chosen: list[dict[str, Any]] = []
    for label in range(classes):
        for right in (True, False):
            fitting = [
                e for e in found if e["label"] == label and (e["predicted"] == label) == right
            ]
            if fitting:
                chosen.append(fitting[(label * 7) % len(fitting)])
    return chosen


def _outcome(plan: PlannedStudy) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads((plan.folder / OUTCOME).read_text(encoding="utf-8"))
    return outcome


def _tallies(plan: PlannedStudy) -> dict[str, Tally]:
    classes = len(plan.study.cell_types)
    test = _outcome(plan)["test"]
    return {site: Tally.from_json(places, classes) for site, places in test.items()}


def _pooled(plan: PlannedStudy) -> Tally:
    """Return the counts on all test cells of the training sites, without those of held-out labs."""
    cohort, tallies = plan.study.cohort, _tallies(plan)
    shown = (tally for name, tally in tallies.items() if cohort[name].role != "held_out")
    return sum(shown, Tally.empty(len(plan.study.cell_types)))


def _figures(tally: Tally, judged: Iterable[Judged] = ()) -> dict[str, Any]:
    """Return the tally's metrics, with intervals over the patients in `judged`, or over cells."""
    parts = list(judged)
    intervals = Judged.together(parts).intervals() if parts else tally.intervals()
    return {**tally.metrics(), "intervals": intervals}


def _judged(plan: PlannedStudy) -> dict[str, Judged]:
    """Return `judge` of the plan for the sites that answered the test."""
    tallies = _tallies(plan)
    return {name: part for name, part in judge(plan).items() if name in tallies}


def _of_training(judged: Mapping[str, Judged], plan: PlannedStudy) -> list[Judged]:
    """Return the predictions on the cells that `_pooled` counts."""
    cohort = plan.study.cohort
    return [part for name, part in judged.items() if cohort[name].role != "held_out"]


def _site(
    site: DealtSite, plan: PlannedStudy, tallies: dict[str, Tally], judged: Judged | None
) -> dict[str, Any]:
    tally = tallies.get(site.name, Tally.empty(len(plan.study.cell_types)))
    held_out = plan.study.cohort[site.name].role == "held_out"
    counts = np.bincount(site.labels, minlength=len(CELL_TYPES))
    return {
        "role": "held_out" if held_out else "train",
        "n_train": 0 if held_out else site.count("train"),
        "training_patients": 0 if held_out else site.training_patients,
        "n_validation": len(site.labels) if held_out else site.count("validation"),
        "n_test": len(site.labels) if held_out else site.count("test"),
        "class_counts": {
            cell.name: int(count)
            for cell, count in zip(CELL_TYPES, counts, strict=True)
            if cell.name in plan.study.cell_types
        },
        **_figures(tally, [judged] if judged else []),
        "epsilon": None if held_out else _epsilon(plan, site.name),
    }


def _epsilon(plan: PlannedStudy, site: str) -> float | None:
    """Return the epsilon that the study has cost by the site's ledger, or None without privacy."""
    if plan.study.privacy.mode == "none":
        return None
    return spent_epsilon(open_site(plan.folder / "sites" / site / "site.yaml"), plan.study)


def _baselines(plans: list[PlannedStudy]) -> dict[str, Any]:
    """Return the metrics of each baseline on the same test cells as the federation's."""
    found: dict[str, Any] = {}
    local = {}
    for plan in plans[1:]:
        judged = _judged(plan)
        pooled = _figures(_pooled(plan), _of_training(judged, plan))
        if plan.name == CENTRALISED:
            found[CENTRALISED] = {**pooled, "epsilon": _epsilon(plan, POOLED)}
        else:
            site = plan.name.removeprefix(f"{LOCAL}-")
            own = _tallies(plan).get(site, Tally.empty(len(plan.study.cell_types)))
            spent = _epsilon(plan, site)
            mine = _figures(own, [judged[site]] if site in judged else [])
            local[site] = {**pooled, "own": mine, "epsilon": spent}
    if local:
        found[LOCAL] = {"mean": _mean(local.values()), "sites": local}
    return found


def _mean(sites: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    listed = list(sites)
    means: dict[str, float | None] = {}
    for name in NAMES:
        values = [site[name] for site in listed if site[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def _model(study: Study, plan: PlannedStudy) -> dict[str, Any]:
    model = workspace(open_site(plan.site_files[0]), study).model
    return {
        "name": study.model.name,
        "encoder": study.model.encoder,
        "weights": study.model.weights,
        "features": study.model.features,
        "quarter_turns": study.model.quarter_turns,
        "projection": study.model.projection,
        "centre": study.model.centre,
        "parameters": parameter_count(model),
        "trainable": sum(value.numel() for value in trainable(model).values()),
    }


def _statistics(plan: PlannedStudy) -> dict[str, Any] | None:
    """Return what the federation's statistics say; None if it asked for none."""
    kept = CellStatistics.read(plan.folder)
    return None if kept is None else asdict(kept)


def _sharing(study: Study) -> dict[str, int]:
    """Return among how many sites' shares the noise is divided, and for whom that was planned."""
    privacy = study.privacy
    planned = {"colluders": privacy.colluders, "dropouts": privacy.dropouts}
    return {"shares": noise_shares(study)} | planned


def _agreed(study: Study) -> float:
    """Return the most that a study under privacy may cost: its epsilon, with its statistics'.

    The latter is a thousandth too large at most, and never too small.
    """
    asked, trained = statistics_forecast(study), study.privacy.epsilon
    return trained if asked is None else max(trained, math.ceil(1000 * asked.with_training) / 1000)


def _privacy(study: Study) -> dict[str, Any] | None:
    privacy = study.privacy
    if privacy.mode == "none":
        return None
    event = study_event(privacy, study.rounds)
    return {
        "mode": privacy.mode,
        **(_sharing(study) if privacy.mode == "distributed" else {}),
        "unit": privacy.unit,
        "epsilon": privacy.epsilon,
        "agreed": _agreed(study),
        "delta": privacy.delta,
        "noise_multiplier": event.noise_multiplier,
        "max_grad_norm": privacy.max_grad_norm,
        "sample_rate": privacy.sample_rate,
        "steps": event.steps,
        "adjacency": ADJACENCY[privacy.unit],
        "accountant": ACCOUNTANT["pld"],
        "units_a_step": expected_units(study),
        "doubts": doubts(study, event.noise_multiplier),
    }
