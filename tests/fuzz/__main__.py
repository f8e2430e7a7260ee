"""Attack live processes with malformed messages and broken sessions, and count what became of them.

    make fuzz MESSAGES=1000000 SESSIONS=10000
    python -m tests.fuzz --messages 5000 --sessions 200 --seed 7

Three in four messages go to a server, the others, as answers, to a puller; half of the sessions go
to a server in plaintext, the others to one with CURVE. Exit 1 if one of them dies, hangs, keeps a
file open or grows by more than 50 MB.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.bench.ends import STARTED_S, End, Usage
from tests.fuzz import victims
from tests.fuzz.attacks import (
    Hung,
    Liar,
    assert_alive,
    attacked_server,
    broken_sessions,
    floods,
    spoilt_requests,
)

GROWTH_LIMIT_BYTES = 50_000_000
SETTLED_S = 20.0
"""By then all that was left behind is closed: handshakes have 5 s."""
WARM_UP = 1_000
FLOODS_IN = 100
"""One session in so many is followed by a flood."""


class Watch:
    """One victim: what it was like before the attack, and what came of it."""

    def __init__(self, name: str, end: End) -> None:
        self._name = name
        self._end = end
        self._fds: int = end.ask("fds").result
        self._before: Usage = end.ask("usage").result
        self._began_s = time.monotonic()

    def told(self, done: int) -> None:
        """How far the attack is; the victim is asked now and then, so that its death shows."""
        if done % 20_000 == 0:
            self._end.ask("usage")

    def judge(self, attempts: int, what: str) -> bool:
        """Print the result; whether all is well."""
        kinds = self._end.ask("refusals").result
        after: Usage = self._end.ask("usage").result
        fds = self._settled_fds()
        grown = after.rss_bytes - self._before.rss_bytes
        well = fds <= self._fds and grown <= GROWTH_LIMIT_BYTES
        print(
            f"{self._name}: {attempts:,} {what} in {time.monotonic() - self._began_s:.0f} s,"
            f" alive; RSS {self._before.rss_bytes / 1e6:.1f} -> {after.rss_bytes / 1e6:.1f} MB,"
            f" peak {after.peak_bytes / 1e6:.1f}; open files {self._fds} -> {fds}"
            f"{'' if well else '   NOT AS IT WAS'}"
        )
        for kind, count in sorted(kinds.items(), key=lambda pair: -pair[1]):
            print(f"    {kind:24} {count:9,}")
        sys.stdout.flush()
        return well

    def _settled_fds(self) -> int:
        end_s = time.monotonic() + SETTLED_S
        while (fds := int(self._end.ask("fds").result)) > self._fds:
            if time.monotonic() > end_s:
                break
            time.sleep(0.1)
        return fds


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    to_puller, encrypted = options.messages // 4, options.sessions // 2
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        attacks: list[Callable[[], bool]] = [
            partial(attack_server, options.messages - to_puller, options.seed),
            partial(attack_puller, to_puller, options.seed),
            partial(attack_port, options.sessions - encrypted, options.seed, None),
            partial(attack_port, encrypted, options.seed, Path(folder)),
            partial(attack_with_floods, options.sessions // FLOODS_IN, options.seed),
        ]
        well = [outlived(attack) for attack in attacks]
    return 0 if all(well) else 1


def outlived(attack: Callable[[], bool]) -> bool:
    """Whether the victim did, and is as it was."""
    try:
        return attack()
    except (OSError, EOFError, Hung) as error:
        print(f"DEAD OR HUNG: {type(error).__name__}: {error}", flush=True)
        return False


def attack_server(messages: int, seed: int) -> bool:
    """With malformed requests."""
    with attacked_server() as victim:
        spoilt_requests(victim, random.Random(f"warm-up {seed}"), WARM_UP, lambda _: None)
        watch = Watch("server", victim.end)
        spoilt_requests(victim, random.Random(f"requests {seed}"), messages, watch.told)
        assert_alive(victim)
        return watch.judge(messages, "malformed requests")


def attack_puller(messages: int, seed: int) -> bool:
    """With malformed answers."""
    with Liar(random.Random(f"answers {seed}")) as liar, End(victims.puller, liar.port) as victim:
        victim.hear(STARTED_S)
        liar.lie(WARM_UP, lambda _: None)
        watch = Watch("puller", victim)
        liar.lie(messages, watch.told)
        before = victim.ask("refusals").result["LayerReceived"]
        liar.behave(lambda: victim.ask("refusals").result["LayerReceived"] > before)
        return watch.judge(messages, "malformed answers")


def attack_port(sessions: int, seed: int, key_folder: Path | None) -> bool:
    """With broken sessions."""
    name = "server's port" if key_folder is None else "server's port with CURVE"
    with attacked_server(key_folder) as victim:
        assert_alive(victim)
        watch = Watch(name, victim.end)
        broken_sessions(victim, random.Random(f"sessions {seed}"), sessions, watch.told)
        assert_alive(victim)
        return watch.judge(sessions, "broken sessions")


def attack_with_floods(connections: int, seed: int) -> bool:
    """Without the bounds that hold a flood off, a server has to outlive it all the same."""
    with attacked_server() as victim:
        assert_alive(victim)
        watch = Watch("flooded server", victim.end)
        floods(victim, random.Random(f"floods {seed}"), connections, watch.told)
        return watch.judge(connections, "floods")


if __name__ == "__main__":
    sys.exit(main())
