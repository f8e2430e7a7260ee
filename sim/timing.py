"""What everything but training and transfers costs a worker, in seconds of virtual time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """From a calibration; the defaults are those of an ideal machine, which takes no time."""

    one_way_s: float = 0.0
    """A small message from worker to worker, until it is looked at."""
    serve_s: float = 0.0
    """From a pull's arrival to its first byte."""
    slowdown: tuple[float, ...] = (1.0,)
    """How many times longer than at its rate a pull takes: equally likely, drawn for each."""
    met_slowdown: tuple[float, ...] = (1.0,)
    """The same of a pull that begins while its server pulls from its puller."""
    deliver_s: float = 0.0
    """From a layer's last byte to the core hearing of it."""
    mix_s: float = 0.0
    """Eq. 1 on all layers."""
    publish_s: float = 0.0
    """Copying a snapshot."""
    evaluate_s: float = 0.0
    """One test of the model."""
    detect_s: float = 3.4
    """Until heartbeats find out that a connection is dead (faults.md, experiment d)."""
    reconnect_s: float = 0.1
    """First pause before connecting again; each further one is twice as long, up to 5 s."""


IDEAL = Timing()
