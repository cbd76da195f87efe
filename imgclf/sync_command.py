"""The command that sends what runs have left, and what other commands tell of dead runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # importing it takes a moment that help need not wait for
    from imgclf.tracking.sync import SyncResult


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option(
    "--runs-dir", default="runs", show_default=True, help="Folder that holds the runs' files."
)
@click.option(
    "--other-hosts",
    is_flag=True,
    help="End runs that were last in progress on other hosts or in other containers as well: be"
    " sure that none of them still is.",
)
def sync(run_ids: tuple[str, ...], runs_dir: str, other_hosts: bool) -> None:
    """Send what MLflow lacks of earlier runs, as after an outage of its server.

    A run whose process was killed is ended as KILLED; one in progress, or without an end on another
    host, is left alone. Sending twice does no harm. Exits with 1 where something is left. RUN_ID is
    imgclf's or MLflow's.

    \b
    Examples:
      imgclf sync
      imgclf sync 20261121-090144-3f2a --runs-dir /data/runs
      imgclf sync 20261121-090144-3f2a --other-hosts
    """
    from imgclf.tracking.identity import find_run_folder
    from imgclf.tracking.journal import run_folders
    from imgclf.tracking.sync import sync_runs

    place = Path(runs_dir)
    folders = [find_run_folder(place, run_id) for run_id in run_ids] or run_folders(place)
    lines = failed = 0
    for result in sync_runs(folders, other_hosts=other_hosts):
        failed += bool(result.failing)
        said = (result.records, result.was_dead, result.other_host, result.failing)
        if run_ids or any(said):
            lines += 1
            click.echo(_describe(result))
    if not lines:
        click.echo("everything is sent" if folders else f"there are no runs in {runs_dir}")
    if failed:
        sys.exit(1)


def end_dead_runs(runs_dir: str) -> None:
    """End the runs whose process was killed, and say so beside a command's own answer.

    A run whose journal cannot be read is named as well.
    """
    from imgclf.tracking import sync

    for result in sync.end_dead_runs(Path(runs_dir)):
        click.echo(_describe(result), err=True)


def _describe(result: "SyncResult") -> str:
    """Return one line that says what became of a run."""
    from imgclf.tracking.identity import shell_tracking_uri, sync_command

    uri, said = result.sent.tracking_uri, []
    if result.is_running:
        said.append("is in progress, and left alone")
    if result.other_host:
        said.append(
            f"has no end, was last in progress on host '{result.other_host}', and is left alone;"
            f" if its process has ended: {sync_command(result.folder, '--other-hosts')}"
        )
    if result.was_dead:
        said.append("its process was killed: ended as KILLED")
    if result.records:
        elsewhere = shell_tracking_uri() not in ("", uri)
        instead = ", the run's own store, in place of MLFLOW_TRACKING_URI" if elsewhere else ""
        said.append(f"sent {result.records:,} records to {uri}{instead}")
    if result.failing:
        said.append(f"not sent: {result.failing}")
    if not said:
        said.append("everything is sent")
    said += [f"refused for good: {problem}" for problem in result.sent.problems()]
    return f"{result.folder.name}  {'; '.join(said)}"
