"""The seeded runs of faults, and that each of their checks would notice."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
from click.testing import CliRunner

from sim import fault_runs
from sim.fault_checks import findings, replays
from sim.fault_runs import cluster, replay_line, run, simulated
from sim.faults import KINDS, Fault


# In 349 a peer was used again after a hello within a pull, before any record said so.
@pytest.mark.parametrize("seed", [*range(1, 31), 349])
def test_a_random_seed_breaks_nothing(seed):
    assert run(seed).findings == []


def test_the_same_seed_gives_the_same_hash_and_its_traces_replay():
    first, again = run(11, everything=True), run(11, everything=True)
    assert first.sha256 == again.sha256 != ""
    assert first.findings == []


FROZEN = Fault(5.2, "freeze", worker=3, for_s=4.0)


@pytest.fixture(scope="module")
def healthy():
    return simulated(cluster(1), [FROZEN])


@pytest.fixture
def broken(healthy):
    """What a test may break: the first life of w0, and all that is then found."""
    twin, lives, faults = healthy
    own = copy.deepcopy(lives.lives["w0"])
    lives = copy.copy(lives)
    lives.lives = {**lives.lives, "w0": own}
    return own[0], lambda: findings(twin, lives, faults)


def test_an_unbroken_run_is_fine(broken):
    assert broken[1]() == []


def test_a_pull_that_is_not_recorded_is_noticed(broken):
    life, found = broken
    life.records.remove(life.of("pull")[5])
    assert any("pulls ended" in line for line in found())


def test_a_report_that_does_not_add_up_is_noticed(broken):
    life, found = broken
    life.of("round")[3]["planned"] += 1
    assert any("pulls planned" in line for line in found())


def test_a_round_without_a_report_is_noticed(broken):
    life, found = broken
    life.records.remove(life.of("round")[3])
    assert any("never reported" in line for line in found())


def test_an_update_that_is_applied_twice_is_noticed(broken):
    life, found = broken
    update = next(one["command"] for one in life.of("publish") if one["command"]["sources"])
    update["sources"].append(update["sources"][0])
    assert any("applied twice" in line for line in found())


def test_a_pull_that_was_applied_without_being_handed_over_is_noticed(broken):
    life, found = broken
    update = next(one["command"] for one in life.of("publish") if one["command"]["sources"])
    del update["sources"][0]
    assert any("and was not" in line for line in found())


def test_a_round_that_is_mixed_twice_is_noticed(broken):
    life, found = broken
    life.records.append(life.of("mix")[-1])
    assert any("mixed in rounds" in line for line in found())


@pytest.mark.parametrize("standing", ["away", "quarantined", "incompatible"])
def test_a_plan_with_a_peer_that_is_not_ready_is_noticed(broken, standing):
    life, found = broken
    index, plan = next((i, one) for i, one in enumerate(life.records) if _uses_a_peer(one))
    peer = next(name for name, layers in plan["assignment"].items() if layers)
    life.records.insert(index, {"kind": "peer", "peer": peer, "standing": standing, "t": plan["t"]})
    assert any(f"plans with {peer}, which is {standing}" in line for line in found())


def test_a_life_that_does_not_begin_after_its_newest_checkpoint_is_noticed(broken):
    life, found = broken
    life.of("snapshot")[0]["round"] = 3
    assert any("after a checkpoint of round 0" in line for line in found())


def _restarted(*faults):
    """A worker that was down from 8.5 s on, for a second, and what is found of it."""
    twin, lives, effects = simulated(cluster(1), [*faults, Fault(8.5, "restart", 2, for_s=1.0)])
    return lives.lives["w2"], effects, lambda: findings(twin, lives, effects)


def _checkpoints(life):
    return [(record["round"], record.get("failed")) for record in life.of("checkpoint")]


def test_who_is_restarted_goes_on_after_its_newest_checkpoint():
    (first, second), _, found = _restarted()
    assert _checkpoints(first) == [(3, None), (6, None)]
    assert second.of("snapshot")[0]["round"] == 6
    assert found() == []


def test_row_21_with_a_failing_disk_training_goes_on_and_the_checkpoint_of_before_is_used():
    (first, second), _, found = _restarted(Fault(5.0, "disk", 2, for_s=3.0))
    assert _checkpoints(first) == [(3, None), (6, "disk")]
    assert second.of("snapshot")[0]["round"] == 3
    assert _checkpoints(second)[0] == (6, None)
    assert found() == []


@pytest.mark.parametrize("torn_s", [7.5, 9.0])
def test_row_22_of_a_damaged_checkpoint_a_worker_falls_back_to_the_one_before(torn_s):
    (first, second), effects, found = _restarted(Fault(torn_s, "torn", 2))
    assert _checkpoints(first) == [(3, None), (6, None)]
    assert second.of("snapshot")[0]["round"] == 3
    assert effects.befell["torn"] == 1
    assert found() == []


def test_who_finds_both_generations_damaged_begins_anew_and_is_not_blamed():
    again = Fault(10.5, "restart", 2, for_s=1.0)
    tears = [Fault(7.5, "torn", 2), Fault(11.0, "torn", 2)]
    twin, lives, effects = simulated(cluster(1), [*tears, again])
    first, second = lives.lives["w2"]
    assert _checkpoints(first) == [(3, None), (6, None), (9, None)]
    assert second.of("snapshot")[0]["round"] == 0
    assert findings(twin, lives, effects) == []


def test_a_fall_back_without_a_damaged_checkpoint_is_noticed():
    (_, _), effects, found = _restarted(Fault(7.5, "torn", 2))
    effects.tears.clear()
    assert any("w2: mixed in rounds [4, 5" in line for line in found())


def test_rounds_that_are_lost_without_need_are_noticed():
    (first, _), _, found = _restarted(Fault(5.0, "disk", 2, for_s=3.0))
    first.records.remove(first.of("checkpoint")[-1])
    assert any("w2: a crash cost 5 rounds, with 0 checkpoints unwritten" in it for it in found())


def test_a_round_that_counts_twice_over_two_lives_is_noticed():
    (_, second), _, found = _restarted()
    second.of("mix")[0]["round"] = 6
    lines = found()
    assert "w2 round 6: counts twice" in lines
    assert "w2: rounds [7] were never done" in lines


def test_an_update_of_which_a_copy_is_left_out_is_noticed(broken):
    life, found = broken
    next(one for one in life.of("mix") if one["copies"])["copies"] -= 1
    assert any("handed over" in line for line in found())


def _a_source(life):
    return next(one for one in life.of("publish") if one["command"]["sources"])["command"][
        "sources"
    ]


@pytest.mark.parametrize("change", [{"version": 99}, {"round": 7}, {"peer": "w9"}])
def test_a_layer_of_a_snapshot_that_was_never_published_is_noticed(broken, change):
    life, found = broken
    _a_source(life)[0].update(change)
    assert any("is of no snapshot that" in line for line in found())


def test_a_layer_that_came_before_its_snapshot_was_published_is_noticed(healthy):
    twin, lives, faults = healthy
    late = copy.copy(lives)
    late.lives = {name: copy.deepcopy(own) for name, own in lives.lives.items()}
    for own in late.lives.values():
        for record in own[0].of("snapshot"):
            record["t"] += 5.0
    assert any("is of no snapshot that" in line for line in findings(twin, late, faults))


def test_a_pull_whose_layers_are_of_two_versions_is_noticed(broken):
    life, found = broken
    sources = next(
        one["command"]["sources"]
        for one in life.of("publish")[3:]
        if len({it["request_id"] for it in one["command"]["sources"]})
        < len(one["command"]["sources"])
    )
    requests = [it["request_id"] for it in sources]
    torn = next(it for it in sources if requests.count(it["request_id"]) > 1)
    torn["version"] -= 1
    torn["round"] -= 1
    assert any("came with layers of another version" in line for line in found())


def test_bytes_that_came_and_were_never_sent_are_noticed(broken):
    life, found = broken
    whole = next(one for one in life.of("attempt") if one["outcome"] == "ok")
    life.moved_bytes[whole["request"]] -= 10
    assert any("bytes came" in line for line in found())


def test_bytes_of_a_whole_pull_that_were_sent_and_never_came_are_noticed(broken):
    life, found = broken
    whole = next(one for one in life.of("attempt") if one["outcome"] == "ok")
    life.moved_bytes[whole["request"]] += 10
    assert any("bytes came" in line for line in found())


def test_a_plan_with_a_peer_that_is_long_gone_is_noticed(healthy):
    twin, lives, faults = healthy
    plan = next(one for one in lives.lives["w0"][0].of("plan")[3:] if _uses_a_peer(one))
    peer = next(name for name, layers in plan["assignment"].items() if layers)
    lost = copy.deepcopy(faults.downs)
    lost[0, int(peer[1:])] = [plan["t"] - 1.5]
    gone = copy.copy(faults)
    gone.downs = lost
    assert any(f"{peer} has been gone for 1.500 s" in line for line in findings(twin, lives, gone))


def test_a_pull_beyond_its_deadline_is_noticed(broken):
    life, found = broken
    pull = life.of("pull")[-1]
    plan = next(one for one in life.of("plan") if one["round"] == pull["round"])
    pull["end_s"] = plan["t"] + life.budgets_s[pull["round"], pull["peer"]] + 0.01
    assert any("its deadline was" in line for line in found())


def test_a_trainer_that_is_held_back_is_noticed(broken):
    life, found = broken
    for record in life.of("pass"):
        record["t"] -= 30.0
    assert any("held back" in line for line in found())


def test_the_time_that_a_worker_was_frozen_is_not_held_against_it(healthy):
    twin, lives, faults = healthy
    assert findings(twin, lives, faults) == []
    awake = copy.copy(faults)
    awake.rests = type(faults.rests)(list)
    assert findings(twin, lives, awake)


def test_a_worker_that_did_not_finish_is_noticed(healthy):
    twin, lives, faults = healthy
    worker = twin.workers[2]
    worker.round -= 1
    found = findings(twin, lives, faults)
    worker.round += 1
    assert found == ["w2: alive, but did 19 rounds only"]


def test_a_story_that_goes_on_after_draining_is_noticed(healthy):
    twin, lives, faults = healthy
    conductor = twin.workers[2].conductor
    conductor.draining = False
    found = findings(twin, lives, faults)
    conductor.draining = True
    assert found == ["w2: drained, but some story goes on"]


def test_a_trace_that_does_not_replay_is_noticed():
    _, lives, _ = simulated(cluster(1), [FROZEN], everything=True)
    (life,) = lives.lives["w3"]
    assert list(replays(life)) == []
    life.of("plan")[3]["makespan_s"] += 1e-9
    (line,) = replays(life)
    assert line.startswith("w3: does not replay from record ")


def test_the_command_counts_every_kind_and_ends_with_success():
    command = [sys.executable, "-m", "sim.fault_runs", "--seeds", "2", "--jobs", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "2 seeds, 0 failed" in ended.stdout
    assert all(f"{kind} " in ended.stdout for kind in KINDS)


def test_a_seed_that_fails_prints_one_line_that_runs_it_again_and_ends_with_1(monkeypatch):
    monkeypatch.setattr(fault_runs, "findings", lambda *_: ["w0: broken", "w1: broken"])
    ended = CliRunner().invoke(fault_runs.main, ["--seeds", "1", "--first", "4", "--jobs", "1"])
    assert ended.exit_code == 1
    (line,) = [one for one in ended.output.splitlines() if "broken" in one]
    assert line.startswith("python -m sim.fault_runs --seed 4  # config ")
    assert "commit " in line
    assert "(and 1 more)" in line


def test_an_assertion_that_breaks_is_a_finding(monkeypatch):
    def broken_run(*_, **__):
        raise AssertionError("time ran backwards")

    monkeypatch.setattr(fault_runs, "run", broken_run)
    seen = fault_runs.attempt(3)
    assert "AssertionError at test_fault_runs.py" in replay_line(seen)


def _uses_a_peer(record):
    return record["kind"] == "plan" and any(record["assignment"].values())
