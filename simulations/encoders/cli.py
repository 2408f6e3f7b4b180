"""The commands `hemofed model ...`, which make and show encoders for studies to start from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from common.config.study import Strict

app = typer.Typer(no_args_is_help=True, help="Encoders from public cells: pretrain, project, show.")

Trained = Literal["cnn", "resnet18", "efficientnet-lite0"]


@app.command()
def pretrain(
    data: Annotated[Path, typer.Argument(help="PUBLIC cells: folder of class folders, or a CSV.")],
    out: Annotated[Path, typer.Option(help="File to write, *.safetensors.")],
    model: Annotated[Trained, typer.Option(help="The network.")] = "cnn",
    side: Annotated[int, typer.Option(min=16, max=512, help="Pixels along an image's edge.")] = 64,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the cells.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Decides all random choices.")] = 0,
    lr: Annotated[float, typer.Option(min=1e-8, max=1, help="Highest learning rate.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 32,
    cell_types: Annotated[
        str | None, typer.Option(help="Only these types, separated by commas.")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Width of cnn.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="What to start from: imagenet, or an encoder's file.")
    ] = None,
    label_map: Annotated[
        Path | None, typer.Option(help="YAML: other names for cell types.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, or a GPU like cuda:1.")] = "auto",
) -> None:
    """Train an encoder on public cells. No privacy: never use a hospital's own cells."""
    from client.data.cache import CellCache, prepare
    from client.data.label_map import read_label_map
    from client.data.progress import counting
    from common.config.loading import parse
    from common.config.study import ModelSpec
    from common.device import resolve
    from common.models.encoder_file import write_encoder
    from simulations.encoders.pretrain import Recipe, pretrain

    _refuse_bad_name(out)
    console = Console()
    console.print(
        "[bold red]NO PRIVACY:[/] what this encoder learns of the images can be read out of its "
        "weights. Give it public cells only."
    )
    given = {"name": model, "width": width, "weights": weights}
    types = tuple(name.strip() for name in cell_types.split(",")) if cell_types else None
    recipe = Recipe(
        spec=parse(ModelSpec, given, "options"),
        epochs=epochs,
        learning_rate=lr,
        batch_size=batch_size,
        seed=seed,
        cell_types=types,
    )
    names = read_label_map(label_map) if label_map else None
    with counting(console, "indexing") as report:
        cells = CellCache.open(prepare(data, side, label_map=names, progress=report))
    with counting(console, "training") as report:
        network, record = pretrain(cells, data.resolve().name, recipe, resolve(device), report)
    write_encoder(out, network.encoder, record)
    _print(console, out, record)
    console.print(f"a study starts from it with model.weights: {out}", soft_wrap=True)


@app.command()
def project(
    data: Annotated[
        list[Path], typer.Argument(help="PUBLIC or rendered cells: folders of class folders.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, *.safetensors.")],
    dim: Annotated[int, typer.Option(min=2, max=4096, help="Features to keep.")] = 256,
    model: Annotated[
        Literal["efficientnet-lite0", "resnet18", "cnn", "dinov2-vits14"],
        typer.Option(help="The encoder."),
    ] = "efficientnet-lite0",
    weights: Annotated[str, typer.Option(help="Its weights: imagenet, or a file.")] = "imagenet",
    features: Annotated[
        Literal["last", "middle"], typer.Option(help="Which of its features; see model.features.")
    ] = "last",
    side: Annotated[int, typer.Option(min=16, max=512, help="Pixels along an image's edge.")] = 96,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, or a GPU like cuda:1.")] = "auto",
) -> None:
    """Fit a map of features to fewer ones, so that a private head needs less noise. No privacy."""
    import importlib.metadata

    import numpy as np
    import torch

    from client.data.cache import CellCache, prepare
    from client.data.progress import counting
    from client.training.feature_cache import extract
    from common.config.study import ModelSpec
    from common.device import resolve
    from common.models import build
    from common.models.projection import ProjectionRecord, fit_projection, write_projection
    from common.models.tensor_digest import tensor_digest

    _refuse_bad_name(out)
    console = Console()
    spec = ModelSpec(name=model, weights=weights, encoder="frozen", features=features)
    network = build(spec, 2, side, seed=0)
    found = []
    for folder in data:
        with counting(console, f"indexing {folder.name}") as report:
            found.append(CellCache.open(prepare(folder, side, progress=report)))
    parts = [extract(network, cells, np.arange(len(cells)), resolve(device)) for cells in found]
    computed = torch.from_numpy(np.concatenate(parts))
    record = ProjectionRecord(
        sources={
            folder.resolve().name: cells.fingerprint
            for folder, cells in zip(data, found, strict=True)
        },
        images=len(computed),
        side=side,
        encoder=tensor_digest(network.encoder.state_dict()),
        hemofed=importlib.metadata.version("hemofed"),
    )
    write_projection(out, fit_projection(computed, dim), record)
    console.print(f"{len(computed)} cells, {computed.shape[1]} features to {dim}: {out}")
    needs = "" if features == "last" else f", features: {features}"
    console.print(f"a study uses it with model: {{projection: {out}{needs}}}", soft_wrap=True)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="*.safetensors of `pretrain` or `project`.")],
) -> None:
    """Show what an encoder or a projection was made from, and how good an encoder is."""
    from common.models.encoder_file import read_record
    from common.models.projection import is_projection, read_projection

    if not is_projection(file):
        _print(Console(), file, read_record(file))
        return
    projection, record = read_projection(file)
    width, dim = projection.matrix.shape
    _print(Console(), file, record, features=f"{width} to {dim}")


def _refuse_bad_name(out: Path) -> None:
    from common.errors import ConfigError

    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: name the file *.safetensors")


def _print(console: Console, file: Path, record: "Strict", **more: str) -> None:
    from common.files import file_digest

    table = Table("", "", title=file.name, show_header=False)
    table.columns[1].overflow = "fold"
    for name, value in (record.model_dump() | more).items():
        table.add_row(name, _text(value))
    table.add_row("sha256", file_digest(file))
    console.print(table)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return "\n".join(f"{name}: {part}" for name, part in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
