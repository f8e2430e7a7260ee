"""Where a worker's log goes: to stderr, and to a file that is turned over when it is full."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from mpls import journald
from mpls.config import ClusterConfig
from mpls.errors import BadInput, shown

FILE_BYTES = 10_000_000
"""A log file that is larger is turned over to NAME.log.1, that one to NAME.log.2, and so on."""
FILES_KEPT = 4
"""Besides the newest: at most 50 MB a worker."""


class JournalFormatter(logging.Formatter):
    """Without the time, which the journal keeps; each line, also of a traceback, with its
    priority."""

    def format(self, record: logging.LogRecord) -> str:
        return journald.marked(super().format(record), record.levelname)


def file_of(config: ClusterConfig, worker: str, folder: Path) -> Path:
    """The log file of a worker that runs in this folder. In `[logging] dir` several clusters may
    leave theirs."""
    if config.logging.dir:
        return Path(config.logging.dir) / f"{config.cluster.name}-{worker}.log"
    return folder / f"{worker}.log"


def handlers(worker: str, file: Path | None) -> list[logging.Handler]:
    """For `logging.basicConfig`: stderr and, where there is one, the file. Raises BadInput for a
    file that cannot be written."""
    to_file = [] if file is None else [_file_handler(worker, file)]
    return [_stderr_handler(worker), *to_file]


def try_folder(config: ClusterConfig) -> None:
    """Raises BadInput unless log files can be written in `[logging] dir`, which is made."""
    folder = Path(config.logging.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f".{config.cluster.name}.unfinished"
        file.touch()
        file.unlink()
    except OSError as error:
        where = f"[logging] dir = {shown(config.logging.dir)}"
        raise BadInput(f"{where}: cannot be written: {error.strerror}") from None


def _stderr_handler(worker: str) -> logging.Handler:
    handler = logging.StreamHandler()
    if journald.reads_stderr():
        handler.setFormatter(JournalFormatter(f"{worker} %(message)s"))
    else:
        handler.setFormatter(_with_time(worker))
    return handler


def _file_handler(worker: str, file: Path) -> logging.Handler:
    try:
        handler = RotatingFileHandler(
            file, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8"
        )
    except OSError as error:
        raise BadInput(f"{file}: the log cannot be written: {error.strerror}") from None
    handler.setFormatter(_with_time(worker))
    return handler


def _with_time(worker: str) -> logging.Formatter:
    return logging.Formatter(f"%(asctime)s %(levelname)s {worker} %(message)s")
