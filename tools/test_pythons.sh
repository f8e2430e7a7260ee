#!/usr/bin/env bash
# On each Python from 3.10 to 3.13 that is installed: a venv without torch, in which core, wire,
# config and sim must import, and their tests pass.
set -euo pipefail
cd "$(dirname "$0")/.."

# One interpreter for each minor version, from PATH and from pyenv.
declare -A found=()
for candidate in python3.1{0,1,2,3} "$HOME"/.pyenv/versions/3.1{0,1,2,3}.*/bin/python; do
    version=$("$candidate" -c 'import sys, ensurepip; print("3.%d" % sys.version_info[1])' 2>/dev/null) || continue
    found[$version]=${found[$version]:-$candidate}
done
[ ${#found[@]} -gt 0 ] || { echo "error: no Python 3.10 to 3.13 found" >&2; exit 2; }

for version in 3.10 3.11 3.12 3.13; do
    python=${found[$version]:-}
    [ -n "$python" ] || { echo "python $version: not installed, not tested"; continue; }
    venv=.venvs/$version
    if [ constraints.txt -nt "$venv/.ready" ] || [ tools/test_pythons.sh -nt "$venv/.ready" ]; then
        "$python" -m venv "$venv"
        grep -v '^torch' constraints.txt > "$venv/requirements.txt"
        "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$venv/requirements.txt" \
            2> >(grep -v "is ignored: it is neither a file nor a directory" >&2)
        touch "$venv/.ready"
    fi
    echo "python $version: core, wire, config and sim without torch"
    "$venv/bin/python" -m pytest -p no:cacheprovider tests/core tests/wire tests/test_config.py \
        tests/test_config_keys.py tests/test_units.py tests/test_topology.py tests/test_forecast.py \
        tests/test_architecture.py tests/sim/test_twin.py tests/sim/test_network_flows.py \
        tests/sim/test_recorded.py tests/sim/test_replay.py tests/sim/test_variation.py
done
