"""The folder in which a worker finds itself again: its checkpoints, and a lock that keeps a second
process of the same worker out."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from mpls.checkpoint import Checkpoint, CheckpointFolder, Identity
from mpls.errors import BadInput, Refused

log = logging.getLogger("mpls")


class StateFolder:
    """Locked from its making until `close`, or the end of the process."""

    def __init__(self, path: Path, keep: int) -> None:
        self.checkpoints = CheckpointFolder(path, keep)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise BadInput(f"{path}: no folder for checkpoints: {error.strerror}") from None
        self._lock(path)

    def resume(self, identity: Identity, fresh: bool) -> Checkpoint | None:
        """What to go on with; None to begin anew: there is nothing, or `fresh` says so. Raises
        BadInput for the checkpoint of somebody else."""
        if fresh:
            self.checkpoints.set_aside()
            return None
        found = self.checkpoints.load()
        for complaint in found.complaints:
            log.error("%s", complaint)
        if found.checkpoint is None or found.path is None:
            return None
        identity.check(found.checkpoint, found.path)
        log.info("going on after round %d: %s", found.checkpoint.round, found.path)
        return found.checkpoint

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._lock_fd)

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock_fd, 32, 0).decode(errors="replace").strip() or "another"
            os.close(self._lock_fd)
            raise Refused(f"{path}: in use by process {holder}; one worker, one process") from None
        os.truncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)
