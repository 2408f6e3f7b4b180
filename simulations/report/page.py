"""Makes the report's page: writes its sentences and tables, and fills in `report.html`."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common import pages
from common.models.projection import RENDERED
from common.text import count
from simulations.report import caveats, formatting, site_errors
from simulations.report.chart import Chart
from simulations.report.figures import baselines, examples
from simulations.report.majority import always, no_better
from simulations.report.run_folder import Run, interval

METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "ece": "calibration error",
}


def html(run: Run, charts: dict[str, Chart]) -> str:
    """Return the whole page as HTML.

    Args:
        run: the run's folder as it was read.
        charts: name -> figure, for the figures that the run has.
    """
    return pages.render(
        Path(__file__).with_name("report.html"),
        run=run,
        summary=run.summary,
        charts=charts,
        uri=pages.data_uri,
        words=formatting,
        interval=interval,
        metrics=METRICS,
        verdict=verdict(run),
        trained=trained(run),
        privacy=privacy(run),
        guarantee=guarantee(run),
        models=models(run),
        sites=[site_row(run, name) for name in run.sites],
        statistics=statistics(run),
        left_out=left_out(run),
        caveats=caveats.caveats(run.summary),
        cells=[example(run, row) for row in examples.chosen(run)],
    )


def verdict(run: Run) -> str:
    """Return the run's result in a few sentences."""
    summary = run.summary
    value, count = summary["balanced_accuracy"], len(run.train_sites)
    parts = [
        f"{formatting.number(count)} {'site' if count == 1 else 'sites'} trained one classifier of "
        f"{len(run.cell_types)} cell types over {formatting.count(summary['rounds'], 'round')}. "
        f"On their test cells its balanced accuracy is {formatting.percent(value)}"
    ]
    bounds = interval(summary, "balanced_accuracy")
    parts[0] += f" (95 % interval {formatting.between(bounds)})." if bounds else "."
    chance = 1 / len(run.cell_types)
    if value is not None and (bounds[0] if bounds else value) <= chance:
        parts.append(f"That is no better than guessing ({formatting.percent(chance)}).")
    parts += filter(None, [no_better(summary)])
    mean = run.local_only["mean"]["balanced_accuracy"] if run.local_only else None
    if mean is not None and value is not None:
        gap = formatting.points(value - mean)
        side = f"{gap} {'more' if value > mean else 'less'} than"
        if abs(value - mean) < baselines.SAME:
            side = "the same as"
        parts.append(
            f"That is {side} the mean of the sites' own models "
            f"({formatting.percent(mean)}){_certainty(run)}."
        )
    for name in run.held_out[:2]:
        found = formatting.percent(run.sites[name]["balanced_accuracy"])
        parts.append(f"On {name}, which took no part in training, it is {found}.")
    return " ".join(parts)


def _certainty(run: Run) -> str:
    found = baselines.verdict(run)
    if found is None:
        return ""
    return ", within the interval" if found == "same" else ", outside the interval"


def trained(run: Run) -> dict[str, str]:
    """Return what was trained and where, as name -> value."""
    summary, model = run.summary, run.summary["model"]
    stopped = "completed" if summary["stopped"] == "completed" else "stopped early"
    facts = {
        "Model": f"{model['name']}, {model['parameters']:,} parameters, of which "
        f"{model['trainable']:,} trained (encoder: {model['encoder']})",
        "Starts from": model["weights"] or "random weights",
        **({"Features": _features(model)} if model["encoder"] == "frozen" else {}),
        "Cells": "rendered by a program" if run.rendered else "images",
        "Trained at": formatting.listing(run.train_sites, 8)
        if run.train_sites
        else formatting.NONE,
        "Rounds": f"{summary['rounds']} ({stopped}); the model of round "
        f"{summary['best_round']} was kept",
        "Time": f"{formatting.duration(summary['seconds'])} for the rounds and their evaluation"
        + (", the baselines beside them" if summary["baselines"] else ""),
        "Sent": f"{formatting.size(summary['bytes_up'])} from the sites, "
        f"{formatting.size(summary['bytes_down'])} to them",
    }
    if run.held_out:
        facts["Only evaluated at"] = formatting.listing(run.held_out, 8)
    return facts


def _features(model: dict[str, Any]) -> str:
    """Return in words which features a frozen encoder gives the head."""
    source = "its middle stages" if model["features"] == "middle" else "its last layer"
    turns = ", the mean over an image's four quarter turns" if model["quarter_turns"] else ""
    name = "the shipped map" if model["projection"] == RENDERED else model["projection"]
    fewer = f", mapped to fewer by {name}" if name else ""
    centre = ", less the mean over all sites, found by the first round" if model["centre"] else ""
    return f"of {source}{turns}{fewer}{centre}"


def privacy(run: Run) -> list[str]:
    """Return paragraphs that say in plain words how the cells were protected."""
    if not run.private:
        return [
            "There was no differential privacy in this run. The updates that the sites sent, and "
            "the model itself, may reveal single cells of the training data."
        ]
    facts = run.summary["privacy"]
    unit = facts["unit"]
    return [
        f"Every {unit} was protected at every step of training: its gradient was clipped to norm "
        f"{facts['max_grad_norm']:g} and Gaussian noise of {facts['noise_multiplier']:.3g} times "
        f"that norm was added. {_whose_noise(facts)}",
        f"At real sites this configuration gives every {unit} (ε = {run.agreed:g}, "
        f"δ = {formatting.tiny(facts['delta'])})-differential privacy; what that means stands "
        "beside the chart of ε below. This run shows what it costs in accuracy and protects "
        "nobody: a simulation draws its noise from a seed, so that it can be repeated, and counts "
        "its evaluations exactly.",
    ]


def _whose_noise(facts: dict[str, Any]) -> str:
    """Return who added the noise, and against whom it would protect."""
    if facts["mode"] == "local":
        return (
            "Each site added the whole noise itself, before anything left it, so the protection "
            "would hold against the server and the other sites too."
        )
    colluders, shares = facts["colluders"], facts["shares"]
    helped = ", not against another site"
    if colluders:
        helped = f" and {count(colluders, 'site')} that told it all they know"
    return (
        f"Each site added 1/√{shares} of that noise to its sum and hid it under masks, which only "
        "the sum over all sites of a round is free of. The protection would hold against the "
        f"server{helped}; against all other sites together only a site's own share would be left."
    )


def guarantee(run: Run) -> list[str]:
    """Return paragraphs that say what the privacy parameters mean; none without privacy."""
    if not run.private:
        return []
    facts = run.summary["privacy"]
    unit, delta = facts["unit"], formatting.tiny(facts["delta"])
    # Bayes: prior odds of 1 grow to at most e^epsilon, except with probability delta.
    sure = 1 / (1 + math.exp(-run.agreed))
    asked = " and one answer with statistics" if run.summary.get("statistics") else ""
    return [
        f"What it means: someone who sees all that was sent, knows all other training data, and "
        f"begins undecided whether one {unit} was used can become at most {_sure(sure)} sure of "
        f"it, except with probability {delta}. 50 % would be perfect secrecy; a smaller ε is "
        "nearer to it. This is the worst case that mathematics cannot exclude, not what an attack "
        "is known to reach.",
        f"Accounted with {facts['accountant']} over the {facts['steps']:,} steps that the study "
        f"may take{asked}, each {unit} drawn with probability {facts['sample_rate']:g} a step; "
        f"adjacency: {facts['adjacency']}.",
    ]


def _sure(share: float) -> str:
    return f"{100 * share:.2f} %" if share > 0.99 else f"{100 * share:.0f} %"


def models(run: Run) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, metrics) of the compared models for the table, the federated one first."""
    commonest, figures = always(run.summary)
    found: list[tuple[str, dict[str, Any]]] = [("federated", run.summary)]
    if run.centralised:
        found.append(("all cells in one place", run.centralised))
    if run.local_only:
        found.append(("one site alone, mean", run.local_only["mean"]))
        found += [(f"{name} alone", part) for name, part in run.local_only["sites"].items()]
    return [*found, (f"no model: {formatting.cell(commonest)} always", figures)]


def site_row(run: Run, name: str) -> dict[str, Any]:
    """Return one line of the table of sites."""
    site = run.sites[name]
    taken = [one.sites[name].status for one in run.rounds if name in one.sites]
    took_part = sum(status.ok for status in taken)
    return {
        "name": name,
        "rounds": f"{took_part} of {len(taken)}" if taken else formatting.NONE,
        **site,
    }


def statistics(run: Run) -> dict[str, Any] | None:
    """Return the caption and the rows (what, value, interval) of the table of statistics.

    None if the study asked for none.
    """
    found = run.summary.get("statistics")
    if not found:
        return None
    sites = found["sites"]
    if not sites:
        said = "The sites' statistics were asked for once, and no sum of them came about."
        return {"caption": said, "rows": []}
    rows = [
        (formatting.cell(name), f"{one['value']:,.0f}", f"{one['low']:,.0f} to {one['high']:,.0f}")
        for name, one in found["cells"].items()
    ]
    for name, one in found["colours"].items():
        value, *ends = (f"{255 * one[end]:.1f}" for end in ("value", "low", "high"))
        rows.append((f"mean {name}, of 255", value, " to ".join(ends)))
    hidden = "" if found["colours"] else " The noise hides their mean colour."
    caption = (
        f"Training cells of {formatting.count(len(sites), 'site')} together, as one noised sum "
        f"tells them, with 95 % intervals for the noise.{hidden}"
    )
    return {"caption": caption, "rows": rows}


def left_out(run: Run) -> list[tuple[str, str, list[int]]]:
    """Return (site, reason, rounds) for the replies that the server did not use."""
    found: dict[tuple[str, str], list[int]] = {}
    for one in run.rounds:
        for name, site in one.sites.items():
            if not site.status.ok:
                said = site_errors.reason(site.status, run.logs)
                found.setdefault((name, said), []).append(one.round)
    return [(name, reason, rounds) for (name, reason), rounds in sorted(found.items())]


def example(run: Run, row: int) -> dict[str, Any]:
    """Return an example cell for the page; `row` is its place in `run.examples`."""
    found = run.examples
    true, said = (run.cell_types[k] for k in (found.label[row], found.predicted[row]))
    return {
        "uri": _picture_uri(found.images[row]),
        "right": true == said,
        "true": formatting.cell(true),
        "said": formatting.cell(said),
        "confidence": formatting.percent(float(found.confidence[row]), 0),
        "site": found.site[row],
    }


def _picture_uri(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return pages.data_uri(buffer.getvalue())
