#!/usr/bin/env bash
# Lints everything in deploy/. Takes the folder of the linters that deploy/checks.txt names; also uses
# docker-compose (Debian has 1.29) and systemd-analyze where they are installed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
tools=$1
failed=0

check() {
    printf '== %s\n' "$*"
    "$@" || failed=1
}

check "$tools/hadolint" deploy/Dockerfile
check "$tools/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose.yaml
check "$tools/kubernetes-validate" --strict --quiet deploy/kubernetes.yaml
check "$tools/shellcheck" deploy/*.sh tools/*.sh
if command -v docker-compose > /dev/null; then
    check docker-compose -f deploy/compose.yaml config -q
else
    echo "-- left out: docker-compose, which is not installed"
fi
if ! command -v systemd-analyze > /dev/null; then
    echo "-- left out: systemd-analyze, which is not installed"
elif compgen -G 'deploy/*.service' > /dev/null; then
    # It exits with 0 whatever it finds in a unit: its words decide.
    said=$(systemd-analyze verify deploy/*.service 2>&1) || failed=1
    printf '== systemd-analyze verify deploy/*.service\n%s' "${said:+$said$'\n'}"
    [ -z "$said" ] || failed=1
fi
[ $failed -eq 0 ] && echo "deploy/ is sound"
exit $failed
