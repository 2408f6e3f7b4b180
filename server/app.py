"""The Flower ServerApp, which is the same in a simulation and in a deployment."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.config.loading import load
from common.config.study import Study
from common.errors import ConfigError
from server.rounds.observer import Observer
from server.rounds.rounds import Rounds


def server_app(observer: Observer | None = None) -> ServerApp:
    """Return a ServerApp that runs the study of its run config and tells `observer` of the rounds.

    The run config has three keys: `study`, the path of the study's YAML with its cohort; `out`, the
    folder of the run; and `finish`, whether to end the run with the rounds that it has.

    The app raises ConfigError if a path is missing or the study is not valid, and what `Rounds.run`
    and `Rounds.finish` raise.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        study = load(Study, _path(context, "study"))
        rounds = Rounds(study, grid, _path(context, "out"), observer or Observer())
        rounds.finish() if context.run_config.get("finish") else rounds.run()

    return app


def _path(context: Context, key: str) -> Path:
    value = context.run_config.get(key)
    if not isinstance(value, str) or not value:
        raise ConfigError(
            f"run config {key!r}: expected a path, found {value!r}; `hemofed simulate CONFIG "
            "--prepare-only` writes the study and prints the command to run it"
        )
    return Path(value)


app = server_app()
