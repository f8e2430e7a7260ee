#!/usr/bin/env bash
# Prints a Python from 3.10 to 3.13 to build .venv with: $PYTHON if given, else the first that fits.
set -u
fits() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" && { echo "$PYTHON"; exit 0; }
    echo "error: PYTHON=$PYTHON is not a Python 3.10 to 3.13 with venv" >&2
    exit 2
fi
for candidate in python3.11 python3.12 python3.13 python3.10 python3 python; do
    fits "$candidate" && { echo "$candidate"; exit 0; }
done
echo "error: no Python 3.10 to 3.13 with venv was found; install one (Debian: python3-venv) or name it: make setup PYTHON=..." >&2
exit 2
