"""What a soak found, held against its goals.

Memory is judged in two ways, as a worker that is killed every minute never ages: *from life to
life*, RSS at the same age of a life over the hour (what a worker brings back from its checkpoint
grows), and *within lives*, RSS over the age of those that were spared (what each round, or each
peer that died, leaves behind). A slope is told with its 95 % interval. In a short soak it says
nothing yet, and is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from tests.soak.figures import Slope, middle, slope, thinned
from tests.soak.kills import Outcome
from tests.soak.workers import TABLES, Sample

BAND = 0.92
"""Mean test accuracy of the three workers. `make run-local`, 200 rounds on the same data with the
same lr, ends at 0.941 (README.md); another seed may cost a hundredth, and a kill some rounds."""
YOUNG_S = (15.0, 25.0)
"""Ages at which lives are compared with each other. Before, some have not evaluated yet, which
takes 7 MB: with lives from 10 s on the interval was five times as wide."""
WARM_SHARE, WARM_S = 0.1, 300.0
"""The first tenth of the soak in a life, but at most five minutes, is warming up."""
THIN_S = 60.0
JUDGED_SPAN_S = 20 * 60.0
"""A slope over less time is not judged."""
MEMORY_MB_h = 2.0
"""Memory is said to grow if it grows faster than this, and the interval excludes that it stays.
A worker has 300 MB: it would take four days to grow by two thirds of that."""
MORE_FILES = 2
STATE_FILES = 3 + int(str(TABLES["checkpoint"]["keep"]))
"""The generations and a newer one, the lock, and what a kill left unfinished until the next one."""
CORES = 1.0
SETTLED_S = 10.0


@dataclass
class Findings:
    """All that is judged."""

    total_s: float
    samples: Sequence[Sample]
    outcomes: Sequence[Outcome]
    accuracies: Sequence[tuple[float, float]]
    """(seconds after the soak began, mean over the workers), at each look."""
    last_accuracies: Mapping[str, float]
    state_sizes: Sequence[tuple[int, int]]
    """Files and bytes of a state folder, at each look."""
    cpu_s: float
    unasked: Sequence[str] = ()
    bad_exits: Sequence[str] = ()
    wrong: Sequence[str] = ()
    whole: int = 0
    damaged: Sequence[str] = ()
    unnamed: Sequence[str] = ()
    named: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    """One line of the report. `met` is None where it could not be judged."""

    what: str
    found: str
    goal: str
    met: bool | None
    details: tuple[str, ...] = ()

    def as_plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return asdict(self)


def goals(it: Findings) -> list[Goal]:
    """Each, judged."""
    return [
        _survived(it),
        *_accuracy(it),
        _memory("RSS from life to life", from_life_to_life(it.samples)),
        _memory("RSS within lives", within_lives(it.samples, it.total_s)),
        _unchanged("open files", [(s.at_s, s.files) for s in settled(it.samples)], it.total_s),
        _unchanged("threads", [(s.at_s, s.threads) for s in settled(it.samples)], it.total_s),
        _state_folders(it),
        _nothing("ends that nobody asked for", it.unasked),
        _nothing("exits at SIGTERM other than 0", it.bad_exits),
        Goal(
            "checkpoints left that verify",
            f"{it.whole} of {it.whole + len(it.damaged)}",
            "all",
            it.whole > 0 and not it.damaged,
            tuple(it.damaged),
        ),
        _nothing("faults in traces", it.wrong),
        _nothing("logs with a traceback", it.unnamed),
        _at_most("cores used", it.cpu_s / max(it.total_s, 1.0), CORES),
    ]


def settled(samples: Sequence[Sample]) -> list[Sample]:
    """Of lives that are past their beginning."""
    return [sample for sample in samples if sample.age_s > SETTLED_S]


def from_life_to_life(samples: Sequence[Sample]) -> Slope | None:
    """Each life is one point, and each worker has its own height."""
    lives = _by_life(s for s in samples if YOUNG_S[0] <= s.age_s <= YOUNG_S[1])
    workers: dict[str, list[tuple[float, float]]] = {}
    for (worker, _), points in lives.items():
        workers.setdefault(worker, []).append(middle(points))
    return slope(list(workers.values()))


def within_lives(samples: Sequence[Sample], total_s: float) -> Slope | None:
    """Each minute is one point, and each life has its own height."""
    warm_s = min(WARM_S, WARM_SHARE * total_s)
    thin_s = max(1.0, min(THIN_S, warm_s))
    lives = _by_life(s for s in samples if s.age_s > warm_s)
    return slope([thinned(points, thin_s) for points in lives.values()])


def _by_life(samples: Any) -> dict[tuple[str, int], list[tuple[float, float]]]:
    lives: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for sample in samples:
        lives.setdefault((sample.worker, sample.life), []).append((sample.at_s, sample.rss_MB))
    return lives


def _survived(it: Findings) -> Goal:
    lost = [one for one in it.outcomes if one.why_not()]
    details = tuple(f"{one.worker} at {one.at_s:.0f} s: {one.why_not()}" for one in lost)
    back = [one.back_s for one in it.outcomes if one.back_s is not None]
    served = [one.served_s for one in it.outcomes if one.served_s is not None]
    found = f"{len(it.outcomes) - len(lost)} of {len(it.outcomes)}"
    if back and served:
        found += f"; back in {median(back):.1f} s (worst {max(back):.1f})"
        found += f", pulled from in {median(served):.1f} s (worst {max(served):.1f})"
    return Goal("kills survived", found, "all", bool(it.outcomes) and not lost, details)


def _accuracy(it: Findings) -> list[Goal]:
    each = ", ".join(f"{name} {value:.3f}" for name, value in it.last_accuracies.items())
    late = [value for at_s, value in it.accuracies if at_s >= it.total_s / 2]
    last = it.accuracies[-1][1] if it.accuracies else None
    return [
        _at_least("test accuracy at the end", last, f" ({each})"),
        _at_least("worst of the last half", min(late, default=None)),
    ]


def _at_least(what: str, value: float | None, more: str = "") -> Goal:
    if value is None:
        return Goal(what, "never evaluated", f">= {BAND:g}", False)
    return Goal(what, f"{value:.3f}{more}", f">= {BAND:g}", value >= BAND)


def _at_most(what: str, value: float, most: float) -> Goal:
    return Goal(what, f"{value:.2f}", f"<= {most:g}", value <= most)


def _memory(what: str, found: Slope | None) -> Goal:
    limit = f"<= {MEMORY_MB_h:g} MB/h, or 0 within"
    if found is None:
        return Goal(what, "too few lives or minutes", limit, None)
    text = f"{found.per_h:+.2f} MB/h [{found.low:+.2f}, {found.high:+.2f}], {found.points} points"
    grows = found.per_h > MEMORY_MB_h and found.low > 0
    return Goal(what, text, limit, None if found.span_s < JUDGED_SPAN_S else not grows)


def _unchanged(what: str, points: Sequence[tuple[float, int]], total_s: float) -> Goal:
    """The most of the last half is what it was in the first, but for a few."""
    early = [value for at_s, value in points if at_s < total_s / 2]
    late = [value for at_s, value in points if at_s >= total_s / 2]
    goal = f"last half <= first + {MORE_FILES}"
    if not early or not late:
        return Goal(what, "too few samples", goal, None)
    found = f"{min(early)} to {max(early)}, then {min(late)} to {max(late)}"
    return Goal(what, found, goal, max(late) <= max(early) + MORE_FILES)


def _state_folders(it: Findings) -> Goal:
    files = max((files for files, _ in it.state_sizes), default=0)
    most = max((size for _, size in it.state_sizes), default=0)
    goal = f"<= {STATE_FILES} files"
    found = f"at most {files} files, {most / 1e6:.2f} MB"
    return Goal("a state folder", found, goal, 0 < files <= STATE_FILES)


def _nothing(what: str, found: Sequence[str]) -> Goal:
    return Goal(what, str(len(found)), "0", not found, tuple(found))
