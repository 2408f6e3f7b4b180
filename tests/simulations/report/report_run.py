"""A fabricated run folder, for tests of the report only."""

import json
from pathlib import Path
from typing import Any

import numpy as np

TYPES = [
    "promyelocyte", "myelocyte", "metamyelocyte", "neutrophil_band", "neutrophil_segmented",
    "eosinophil", "basophil", "monocyte", "normoblast", "lymphocyte",
]  # fmt: skip
SITES = ["north", "south", "east_university_hospital", "west", "islands"]


def _around(value: float, width: float = 0.02) -> list[float]:
    return [max(0.0, value - width), min(1.0, value + width)]


def _scores(value: float) -> dict[str, Any]:
    scores = {"accuracy": value + 0.03, "balanced_accuracy": value, "macro_f1": value - 0.01}
    scores["ece"] = 0.04
    return {**scores, "intervals": {name: _around(score) for name, score in scores.items()}}


def summary(
    *,
    sites: list[str] = SITES,
    types: list[str] = TYPES,
    private: bool = True,
    baselines: bool = True,
    data: str = "rendered",
    federated: float = 0.7,
    local: float = 0.55,
    rounds: int = 20,
) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    support = rng.integers(5, 200, len(types))
    confusion = np.zeros((len(types), len(types)), dtype=int)
    for row, total in enumerate(support):
        wanted = np.full(len(types), 0.3 / (len(types) - 1))
        wanted[row] = 0.7
        confusion[row] = rng.multinomial(total, wanted / wanted.sum())
    parts = {}
    for index, name in enumerate(sites):
        counts = {kind: int(rng.integers(0, 900 // (index + 1))) for kind in types}
        counts[types[index % len(types)]] = 0
        parts[name] = {
            "role": "held_out" if name == sites[-1] else "train",
            "n_train": sum(counts.values()) * 7 // 10,
            "training_patients": index * sum(counts.values()) // 20,
            "n_validation": sum(counts.values()) // 10,
            "n_test": sum(counts.values()) // 5,
            "class_counts": counts,
            **_scores(federated + 0.04 * np.sin(index)),
            "epsilon": 7.96 if private and name != sites[-1] else None,
        }
    trained = sites[:-1]
    alone = {
        name: {
            **_scores(local + 0.05 * np.cos(i)),
            "own": _scores(federated - 0.1 + 0.04 * (i % 5)),
        }
        for i, name in enumerate(trained)
    }
    precision = np.diag(confusion) / np.maximum(confusion.sum(axis=0), 1)
    recall = np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)
    per_class = {
        kind: {
            "precision": float(precision[k]),
            "recall": float(recall[k]),
            "f1": float(2 * precision[k] * recall[k] / max(precision[k] + recall[k], 1e-9)),
            "support": int(support[k]),
        }
        for k, kind in enumerate(types)
    }
    return {
        "name": "fabricated", "description": "A fabricated run, for the tests of the report.",
        "data": data, "seed": 1, "rounds": rounds, "best_round": max(1, rounds - 2),
        "stopped": "completed", "seconds": 201.4, "bytes_up": 123_456_789, "bytes_down": 98_765_432,
        "model": {"name": "cnn", "encoder": "train", "weights": None, "features": "last",
                  "quarter_turns": False, "projection": None, "centre": False,
                  "parameters": 301_234, "trainable": 301_234},
        "cell_types": types, **_scores(federated), "per_class": per_class,
        "confusion": confusion.tolist(), "intervals_over": "cells", "sites": parts,
        "baselines": {
            "local_only": {"mean": {k: v for k, v in _scores(local).items() if k != "intervals"},
                           "sites": alone},
            "centralised": {**_scores(federated + 0.03), "epsilon": 8.0 if private else None},
        } if baselines else {},
        "baselines_given_up": {},
        "left_out": {},
        "privacy": {
            "mode": "local", "unit": "image", "epsilon": 8.0, "delta": 1e-5,
            "noise_multiplier": 0.83, "max_grad_norm": 1.0, "sample_rate": 0.05, "steps": 100,
            "adjacency": "add or remove one image", "accountant": "PLD",
        } if private else None,
        "machine": {"processor": "a processor with a fairly long name", "cores": 2, "gpu": None},
        "versions": {"hemofed": "0.1.0", "torch": "2.13.0"}, "digest": "ab" * 32,
    }  # fmt: skip


def rounds(content: dict[str, Any], every: int = 1) -> list[dict[str, Any]]:
    rows = []
    total = content["rounds"]
    for number in range(1, total + 1):
        grown = content["balanced_accuracy"] * (1 - np.exp(-4 * number / total)) + 0.02
        evaluation = {
            "global": _scores(grown),
            "sites": {
                name: _scores(min(0.95, grown + 0.05 * np.sin(3 * i + number / 6)))
                for i, name in enumerate(content["sites"])
            },
        }
        epsilon = 8 * np.sqrt(number / total) if content["privacy"] else None
        site_rows = {
            name: {
                **({"status": "left out", "words": "update is not finite"}
                   if (i, number) == (1, 3) else {"status": "ok"}),
                "update_norm": 1.0, "loss": 1.2, "epsilon": epsilon, "seconds": 0.3,
            }
            for i, name in enumerate(content["sites"])
            if content["sites"][name]["role"] == "train"
        }  # fmt: skip
        rows.append({
            "round": number, "attempt": 1, "lifted": [], "seconds": 2.0,
            "bytes_up": 1000, "bytes_down": 1000,
            "sites": site_rows, "evaluation": evaluation if number % every == 0 else None,
        })  # fmt: skip
    return rows


def write(
    folder: Path, content: dict[str, Any], examples: int = 30, side: int = 48, every: int = 1
) -> Path:
    """A run folder with `content` as its summary."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(content))
    lines = [json.dumps(row) for row in rounds(content, every)]
    (folder / "rounds.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text("study:\n  name: fabricated\n  note: <b>&</b>\n")
    label = rng.integers(0, len(content["cell_types"]), examples)
    predicted = np.where(
        rng.random(examples) < 0.6, label, (label + 1) % len(content["cell_types"])
    )
    np.savez(
        folder / "predictions.npz",
        images=rng.integers(0, 256, (examples, side, side, 3), dtype=np.uint8),
        label=label, predicted=predicted, confidence=rng.uniform(0.3, 1, examples),
        site=np.array([list(content["sites"])[i % len(content["sites"])] for i in range(examples)]),
    )  # fmt: skip
    return folder
