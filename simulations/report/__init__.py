"""The report of a simulation: figures, and one HTML page that opens without a network.

The drawing modules are imported where they are used, because they load slowly and the command needs
the rest of this package before a run starts.
"""

from pathlib import Path

from common.files import replacing, write_text


def write(run_dir: Path) -> Path:
    """Write `figures/*.png` and `report.html` into a run's folder, and return the page's path.

    The folder must hold `summary.json`, `rounds.jsonl`, `config.yaml` and `predictions.npz`. The
    same run gives the same bytes.

    Raises:
        DataError: one of these files is missing or broken.
    """
    from simulations.report import run_folder
    from simulations.report.chart import style
    from simulations.report.figures import FIGURES
    from simulations.report.page import html

    run = run_folder.read(run_dir)
    with style():
        drawn = {name: draw(run) for name, draw in FIGURES.items()}
    charts = {name: chart for name, chart in drawn.items() if chart is not None}
    for name, chart in drawn.items():
        path = run_dir / "figures" / f"{name}.png"
        if chart is None:
            path.unlink(missing_ok=True)
        else:
            with replacing(path) as temporary:
                temporary.write_bytes(chart.png)
    page = run_dir / "report.html"
    write_text(page, html(run, charts))
    return page
