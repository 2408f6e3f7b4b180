"""The command `hemofed simulate`."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from simulations.config import Simulation

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""


def simulate(
    config: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of one in configs/simulations.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of real images to use instead of rendered ones."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="key=value, like study.rounds=5 or variant=private; repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. Default: runs/<name>-<time>.")
    ] = None,
    backend: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Workers on this machine, or on the nodes of a Ray cluster."),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of the cluster to join, or auto. Default: RAY_ADDRESS, or if that is "
            "not set a new cluster on this machine."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes. Default: one per core.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    prepare_only: Annotated[
        bool, typer.Option(help="Only write the sites and the study for `flwr run .`.")
    ] = False,
) -> None:
    """Simulate a federation of hospitals on this machine or a cluster, and write a report."""
    from common.config.loading import find
    from common.errors import ConfigError, FederationError
    from common.text import typed
    from simulations.progress import Terminal, results_table
    from simulations.report.description import write_description
    from simulations.run import prepare, resumed, run

    if (config is None) == (resume is None):
        raise typer.BadParameter("give a CONFIG, or --resume DIR")
    if ray_address is not None and backend != "ray":
        raise typer.BadParameter("--ray-address is for --backend ray")
    if resume is not None:
        if settings or data or out:
            raise typer.BadParameter("--resume goes on as it was: leave out --set, --data, --out")
        simulation = resumed(resume)
        folder = resume
    else:
        simulation, said = _read(find(str(config), "simulations"), settings or [], data)
        folder = out or Path("runs") / f"{simulation.study.name}-{datetime.now():%Y%m%d-%H%M%S}"
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder}: is a file; choose another --out")
        write_description(folder, said)
    if workers is not None:
        runtime = simulation.runtime.model_copy(update={"workers": workers})
        simulation = simulation.model_copy(update={"runtime": runtime})
    console = Console()
    try:
        with Terminal(console) as terminal:
            if prepare_only:
                from simulations.flower_command import flower_command, for_flower

                plan = prepare(for_flower(simulation), folder, terminal).plans[0]
            else:
                summary = run(simulation, folder, terminal, backend, ray_address)
    except KeyboardInterrupt:
        again = typed("hemofed", "simulate", "--resume", folder)
        typer.echo(f"\nstopped; go on with: {again}")
        raise typer.Exit(INTERRUPTED) from None
    except FederationError as error:
        from simulations.report.site_errors import explained

        raise FederationError(explained(error, folder)) from error
    if prepare_only:
        # Not by the console, which would break the line: it is there to be pasted.
        typer.echo(flower_command(plan))
        return
    from simulations.report.caveats import caveats
    from simulations.report.site_errors import never_used_in

    console.print(results_table(summary))
    given_up = (
        f"{name} could not be trained to its end: {reason}"
        for name, reason in summary["baselines_given_up"].items()
    )
    for line in (*caveats(summary), *never_used_in(folder), *given_up):
        console.print(line, style="yellow", markup=False, soft_wrap=True)
    typer.echo(f"report: {(folder / 'report.html').absolute()}")


def _read(path: Path, settings: list[str], data: Path | None) -> "tuple[Simulation, str]":
    """The simulation in `path` with the options' changes, and how to describe it.

    Raises ConfigError: a fault in the file or an option. DataError: no folder of images.
    """
    from common.config.loading import read_yaml
    from simulations.config import read
    from simulations.labs import located
    from simulations.report.description import describe

    simulation, file = read(path, settings, data), read_yaml(path)
    simulation = simulation.model_copy(update={"data": located(simulation.data)})
    source = file["data"].get("source") if isinstance(file.get("data"), dict) else None
    return simulation, describe(simulation, source or "rendered", settings)
