#!/usr/bin/env bash
# Makes .venv with everything that runs, tests and checks polyray on CPU; `make setup` calls it. Instant when the
# requirements have not changed since the last time.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
STAMP=$VENV/.requirements.sha256
PYTORCH_INDEX=https://download.pytorch.org/whl/cpu

fail() {
    echo "error: $1" >&2
    exit 1
}

works() { # a pyenv shim may exist for a version that is not installed, and Debian splits venv from python
    "$1" -c 'import sys, ensurepip, venv; assert sys.version_info[:2] in ((3, 11), (3, 12))' >/dev/null 2>&1
}

microseconds() { # what a small loop over objects takes
    "$1" -c '
import time
class Item:
    def __init__(self, number): self.number, self.seen = number, []
    @property
    def size(self): return len(self.seen) + self.number
def turn():
    items = [Item(number) for number in range(64)]
    for key in range(100):
        for item in items: item.seen.append(max(key, item.size))
def timed():
    start = time.process_time(); turn(); return time.process_time() - start
print(int(1e6 * min(timed() for _ in range(5))))'
}

# The engine, Ray and the tests are mostly Python, and an interpreter that was built with profile-guided optimisation
# (distributions do, pyenv does not unless asked) runs such a loop twice as fast. Candidates take turns, so that a busy
# machine disturbs them alike; an earlier one of the list is taken unless a later one is clearly faster.
find_python() {
    local candidate path us
    local -a found=()
    local -A fastest=()
    for candidate in python3.11 /usr/bin/python3.11 python3.12 /usr/bin/python3.12 python3; do
        works "$candidate" || continue
        path=$("$candidate" -c 'import os, sys; print(os.path.realpath(sys.executable))')
        [ -n "${fastest[$path]:-}" ] || found+=("$path")
        fastest[$path]=999999999
    done
    [ ${#found[@]} -gt 0 ] ||
        fail "no working Python 3.11 or 3.12 with venv; install one, e.g. apt-get install python3.11 python3.11-venv"
    if [ ${#found[@]} -gt 1 ]; then
        for _ in {1..12}; do
            for path in "${found[@]}"; do
                us=$(microseconds "$path")
                [ "$us" -ge "${fastest[$path]}" ] || fastest[$path]=$us
            done
        done
    fi
    candidate=${found[0]}
    for path in "${found[@]:1}"; do
        [ $((fastest[$path] * 100)) -ge $((fastest[$candidate] * 80)) ] || candidate=$path
    done
    echo "$candidate"
}

install() {
    "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet --quiet --no-deps --no-compile "$@"
}

wanted=$(cat requirements/cpu.txt requirements/hashed.txt requirements/setup.sh | sha256sum)
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$wanted" ] && works "$VENV/bin/python"; then
    exit 0
fi

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "the CPU packages exist for Linux on x86_64 only, this is $(uname -sm)"
command -v lscpu >/dev/null || fail "no lscpu (the inference engine asks it for cores); apt-get install util-linux"
if ! command -v "${CXX:-g++}" >/dev/null; then
    echo "warning: no C++ compiler, torch.compile will fail; apt-get install g++, or export TORCH_COMPILE_DISABLE=1" >&2
fi

if ! works "$VENV/bin/python"; then
    python=$(find_python)
    echo "setup: creating $VENV with $("$python" --version), $python"
    "$python" -m venv --clear "$VENV"
fi
rm -f "$STAMP"

echo "setup: installing $(grep -c == requirements/cpu.txt) packages into $VENV (about 3 GB, a few minutes)"
torch=$(grep '^torch==' requirements/cpu.txt)
install "$torch" 2>/dev/null || install --index-url "$PYTORCH_INDEX" "$torch" ||
    fail "$torch is neither on the configured package index nor reachable at $PYTORCH_INDEX"
install --require-hashes --requirement requirements/hashed.txt
install --requirement requirements/cpu.txt
install --no-build-isolation --no-index --editable .
# Every Ray worker is a new process that imports torch, transformers and vLLM: without bytecode (and nothing writes it
# later where PYTHONDONTWRITEBYTECODE is set) each takes three times as long to start. Some packages ship templates
# that are no Python, hence `|| true`.
echo "setup: compiling them (about a minute)"
"$VENV/bin/python" -m compileall -qq -j 0 "$VENV/lib" >/dev/null || true
echo "$wanted" >"$STAMP"
echo "setup: done"
