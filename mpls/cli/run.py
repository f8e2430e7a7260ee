"""`mpls run`: all workers of a cluster on this machine, watched while they run."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpls.cli.options import calibration_option
from mpls.errors import MplsError

if TYPE_CHECKING:
    from mpls.config import ClusterConfig
    from mpls.report.progress import TraceFollower, WorkerProgress
    from mpls.runtime.federation import Federation

LOOK_S = 0.25
"""How often traces are read and processes looked after."""
PIPED_COLUMNS = 160


@click.command("run")
@click.argument("cluster", type=click.Path(path_type=Path), required=False)
@click.option("--strategy", help="Instead of the file's [mpls] strategy.")
@click.option("--transport", help="Instead of the file's [network] transport.")
@click.option("--rounds", type=int, help="Instead of the file's [training] rounds.")
@click.option("--seed", type=int, help="Instead of the file's [cluster] seed.")
@click.option("--out", help="Folder for runs, instead of the file's [cluster] out.")
@click.option(
    "--restart",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Start a worker that died again, up to N times each, from its newest checkpoint.",
)
@calibration_option
@click.option("--json", "as_json", is_flag=True, help="Print only the summary, as JSON.")
def command(
    cluster: Path | None,
    restart: int,
    calibration: Path | None,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Run all workers of CLUSTER on this machine, one process each.

    Without a file: three workers in a ring on the embedded digits. In a terminal a live table
    shows what happens; piped, each evaluation is a line. Ctrl-C drains and writes the summary; a
    second Ctrl-C kills. SIGHUP makes it read CLUSTER anew: workers that joined are started, those
    that left are stopped, and public keys are taken up where links are encrypted.

    \b
    Examples:
      mpls run
      mpls run configs/local.toml --strategy local --rounds 50
      mpls run cluster.toml --json | jq .workers[].test_accuracy
    """
    from mpls.preflight import prepare
    from mpls.runtime.federation import Federation, warm_up
    from mpls.runtime.folders import calibration_here, keep_calibration, new_folder

    warm_up()
    prepared = prepare(cluster, **overrides)
    measured, warning = calibration_here(calibration)
    for text in (*prepared.warnings, *([warning] if warning else [])):
        _echo(f"warning: {text}", err=True)
    config = prepared.config
    folder = new_folder(config.cluster.out, config.cluster.name)
    keep_calibration(measured, folder)
    federation = Federation(config, folder, prepared.keys, prepared.adapter, restart)
    run = _Run(federation, lambda: prepare(cluster, to_run=False, **overrides).config)
    with _screen(run, quiet=as_json) as show:
        summary = run.watch(show)
    _report(summary, folder, as_json)
    sys.exit(_exit_code(summary))


class _Run:
    """A federation and what its traces say; `read_anew` gives its cluster file as it is now."""

    def __init__(self, federation: Federation, read_anew: Callable[[], ClusterConfig]) -> None:
        self._federation = federation
        self._read_anew = read_anew
        self._reload_asked = False
        self._restarts = 0
        self.rounds = federation.config.training.rounds
        self._followed: dict[int, tuple[WorkerProgress, TraceFollower]] = {}
        for worker in federation.config.present:
            self._begin_to_follow(worker.id, worker.name)

    @property
    def workers(self) -> list[WorkerProgress]:
        """All that were ever started, by rising id."""
        return [self._followed[number][0] for number in sorted(self._followed)]

    def _begin_to_follow(self, number: int, name: str) -> None:
        from mpls.report.progress import TraceFollower, WorkerProgress

        known = self._followed.get(number)
        if known is None or known[0].name != name:  # one that comes back goes on in its own trace
            follower = TraceFollower(self._federation.folder / f"{name}.trace.jsonl")
            self._followed[number] = (WorkerProgress(name), follower)

    @property
    def title(self) -> str:
        """Above the live table."""
        config = self._federation.config
        return f"{config.mpls.strategy} on {config.data.dataset}, {self._federation.folder}"

    def watch(self, show: Callable[[], None]) -> dict[str, Any]:
        """Start, look on until all have ended, and write the summary."""
        began_s = time.monotonic()
        federation = self._federation
        heard = signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._interrupt)
        signal.signal(signal.SIGHUP, self._ask_to_reload)
        try:
            federation.start()
            while federation.wait(LOOK_S):
                self._follow()
                self._tell_of_restarts()
                if self._reload_asked:
                    self._reload()
                show()
        finally:
            signal.signal(signal.SIGINT, heard)
            federation.kill()
        self._follow()
        show()
        return self._summary(time.monotonic() - began_s)

    def _ask_to_reload(self, *_: object) -> None:
        self._reload_asked = True

    def _reload(self) -> None:
        """A file that is wrong changes nothing; the workers' keys have a file of their own."""
        from mpls.runtime.membership import ignored

        self._reload_asked = False
        try:
            file = self._read_anew()
            joined, left = self._federation.reload(file)
        except MplsError as error:
            _echo(f"error: not reloaded, all stays as it was: {error}", err=True)
            self._federation.tell_to_reload()
            return
        name_of = {worker.id: worker.name for worker in self._federation.config.workers}
        for number in joined:
            self._begin_to_follow(number, name_of[number])
        told = [f"{name_of[number]} joined" for number in joined]
        told += [f"{name_of.get(number, f'worker {number}')} left" for number in left]
        _echo(f"cluster file reloaded: {', '.join(told) or 'nobody joined or left'}", err=True)
        if late := ignored(self._federation.config, file):
            _echo(f"warning: taken up at the next run only: {', '.join(late)}", err=True)

    def _tell_of_restarts(self) -> None:
        for name, code in self._federation.restarted[self._restarts :]:
            _echo(f"{name} died ({_ended(code)}) and is started again", err=True)
        self._restarts = len(self._federation.restarted)

    def _interrupt(self, number: int, _: object) -> None:
        from mpls.runtime.process import say_draining

        if number == signal.SIGINT and not self._federation.interrupted:
            say_draining()
        self._federation.interrupt()

    def _follow(self) -> None:
        for worker, follower in self._followed.values():
            for record in follower.new_records():
                worker.take(record)

    def _summary(self, seconds: float) -> dict[str, Any]:
        from mpls.report.summary import summarise, write

        federation = self._federation
        exits = federation.exits()
        stayed = {worker.id for worker in federation.config.present}
        short = any(self._followed[number][0].round < self.rounds for number in stayed)
        ended = "failed" if any(exits.values()) or short else "completed"
        summary = summarise(
            self.workers,
            list(exits.values()),
            federation.folder,
            status="interrupted" if federation.interrupted else ended,
            strategy=federation.config.mpls.strategy,
            seconds=seconds,
            ids=list(exits),
        )
        write(summary, federation.folder)
        return summary


class _Quiet:
    """Shows nothing."""

    def __enter__(self) -> Callable[[], None]:
        return lambda: None

    def __exit__(self, *_: object) -> None:
        return


class _Lines:
    """A line for each state that a worker enters and each evaluation of it."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._told: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Callable[[], None]:
        return self._show

    def __exit__(self, *_: object) -> None:
        return

    def _show(self) -> None:
        for worker in self._run.workers:
            state, evaluated_round = self._told.get(worker.name, ("starting", 0))
            if worker.mixed_round != evaluated_round:
                _echo(_progress_line(worker, self._run.rounds))
            if worker.state != state:
                _echo(f"{worker.name} {worker.state}{_because(worker)}")
            self._told[worker.name] = (worker.state, worker.mixed_round)


class _Table:
    """The live table, redrawn in place."""

    def __init__(self, run: _Run) -> None:
        from rich.live import Live

        self._run = run
        self._live = Live(self._draw(), refresh_per_second=4)

    def __enter__(self) -> Callable[[], None]:
        self._live.start()
        return lambda: self._live.update(self._draw())

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _draw(self) -> Any:
        from mpls.report.table import live_table

        return live_table(self._run.workers, self._run.rounds, self._run.title)


def _screen(run: _Run, quiet: bool) -> _Quiet | _Lines | _Table:
    if quiet:
        return _Quiet()
    return _Table(run) if sys.stdout.isatty() else _Lines(run)


def _echo(text: str, err: bool = False) -> None:
    """A line for whoever still reads. If nobody does, the run goes on without a word: it is worth
    more than its lines."""
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, (sys.stderr if err else sys.stdout).fileno())
        os.close(nowhere)


def _progress_line(worker: WorkerProgress, rounds: int) -> str:
    from mpls.report.table import progress_line

    return progress_line(worker, rounds)


def _because(worker: WorkerProgress) -> str:
    return f": {worker.reason}" if worker.reason else ""


def _report(summary: dict[str, Any], folder: Path, as_json: bool) -> None:
    if as_json:
        _echo(json.dumps(summary))
    else:
        from rich.console import Console

        from mpls.report.table import summary_table

        # Piped, nobody has a width: lines must not be cut to fit one.
        console = Console() if sys.stdout.isatty() else Console(width=PIPED_COLUMNS)
        with console.capture() as table:
            console.print(summary_table(summary))
        _echo(f"{table.get()}{folder}")
    if summary["status"] != "failed":
        return
    most = max(worker["rounds"] for worker in summary["workers"])
    for worker in summary["workers"]:
        if worker["exit"] or worker["rounds"] < most:
            _echo(f"error: {_obituary(worker, folder)}", err=True)


def _obituary(worker: dict[str, Any], folder: Path) -> str:
    """Which worker died and why, in a line."""
    code = worker["exit"]
    if code == 0:
        why = f"was told to stop after {worker['rounds']} rounds"
    elif code < 0:
        why = f"was killed by {signal.Signals(-code).name} in state {worker['state']}"
    else:
        why = f"failed with exit code {code}: {worker['reason'] or 'see its log'}"
    return f"worker {worker['id']} ({worker['name']}) {why}; log: {folder / worker['name']}.log"


def _ended(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _exit_code(summary: dict[str, Any]) -> int:
    if summary["status"] == "interrupted":
        return 130
    return 1 if summary["status"] == "failed" else 0
