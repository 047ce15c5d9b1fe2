#!/usr/bin/env bash
# Make a virtual environment with the exact CPU set of deploy/requirements-cpu.lock and Palate itself (editable).
# Usage: deploy/setup.sh [VENV]   (default .venv; PYTHON chooses the interpreter, 3.11 or 3.12)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
lock=deploy/requirements-cpu.lock

say() { printf '\033[1m[setup]\033[0m %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
    if "$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

[ "$(uname -sm)" = "Linux x86_64" ] || die "the lock is for Linux on x86_64; elsewhere: pip install 'palate[cpu]' or 'palate[gpu]'"

if [ ! -x "$venv/bin/python" ]; then
  python=$(find_python) || die "Python 3.11 or 3.12 with venv is needed (Debian: apt-get install python3 python3-venv)"
  say "virtual environment $venv with $("$python" --version)"
  "$python" -m venv "$venv"
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
torch=$(grep -E '^torch==' "$lock")

if ! "$venv/bin/python" -c "import importlib.metadata as m, sys; sys.exit('torch==' + m.version('torch') != '$torch')" 2>/dev/null; then
  say "$torch"
  # PyPI has no CPU build for Linux; the configured indexes are asked first (mirrors carry it), then PyTorch's own.
  pip install --quiet --no-deps "$torch" 2>/dev/null ||
    pip install --quiet --no-deps "$torch" --index-url https://download.pytorch.org/whl/cpu
fi

say "locked packages ($(grep -c '==' "$lock"))"
pip install --quiet "$(grep -E '^uv==' "$lock")" 2>/dev/null || pip install --quiet uv
"$venv/bin/python" -m uv pip install --python "$venv/bin/python" --no-deps --requirement "$lock"
"$venv/bin/python" -m uv pip install --quiet --python "$venv/bin/python" --no-deps --editable .
touch "$venv/.installed"
say "done"
