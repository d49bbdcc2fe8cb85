#!/usr/bin/env bash
# bash run.sh [options]   set up .venv and run the main job (options: bash run.sh --help)
# bash run.sh test        set up .venv and run the tests (options: those of pytest)
# bash run.sh docs        set up .venv, build the site into docs/_build/html and check it (options: those of pytest)
# bash run.sh integrations   set up .venv and run the pages of docs/integrations, with the frameworks they need
# VENV=DIR bash run.sh    use another directory than .venv
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3}
venv=${VENV:-.venv}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "error: need Python 3.11 or newer; name one with PYTHON=/path/to/python bash run.sh" >&2
  exit 2
fi

extra=examples
if [[ ${1:-} == test ]]; then extra=dev; fi
if [[ ${1:-} == docs ]]; then extra=docs; fi
if [[ ${1:-} == integrations ]]; then extra=dev,integrations; fi

# Install once, and again when the requirements change.
stamp=$venv/installed-$extra-$(cksum <pyproject.toml | cut -d' ' -f1)
if [[ ! -e $stamp ]]; then
  echo "Setting up $venv (once, about a minute) ..."
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
  touch "$stamp"
fi

if [[ ${1:-} == test ]]; then
  shift
  # XLA's older emitters, where it still has them, compile the many small programs in less time.
  quick="${XLA_FLAGS:-} --xla_cpu_use_fusion_emitters=false"
  if XLA_FLAGS=$quick "$venv/bin/python" -c 'import jax; jax.devices()' &>/dev/null; then export XLA_FLAGS=$quick; fi
  exec "$venv/bin/python" -m pytest --numprocesses 2 "$@"
fi
if [[ ${1:-} == docs ]]; then
  shift
  rm -rf docs/_build
  # The pages draw their pictures inline, on the CPU.
  env -u MPLBACKEND -u XLA_FLAGS JAX_PLATFORMS=cpu "$venv/bin/python" -m sphinx -q -W --keep-going -j 2 -b html docs docs/_build/html
  BMRPRUNER_SITE=docs/_build/html exec "$venv/bin/python" -m pytest -rs tests/docs "$@"
fi
if [[ ${1:-} == integrations ]]; then
  shift
  exec "$venv/bin/python" -m pytest --numprocesses 2 tests/integrations "$@"
fi
exec "$venv/bin/python" examples/prune.py "$@"
