# syntax=docker/dockerfile:1
# The server with the embedded backbone and the example adapters, for CPUs and for NVIDIA GPUs:
#   docker build -t prefixrack .                           # --target cpu, the last one, is the default
#   docker build -t prefixrack:cuda --target cuda .
#   docker run --rm --read-only --tmpfs /tmp -p 8000:8000 -v prefixrack-data:/data -v prefixrack-cache:/cache prefixrack
# TORCH_INDEX_URL may name PyTorch's documented index of CPU builds (pytorch.org, "Get Started") for the target cpu: without it
# the default index is used, whose Linux builds of torch bring CUDA. BASE may be any image with Python at /usr/bin or
# /usr/local/bin and Debian's apt.
ARG BASE=python:3.11-slim

FROM ${BASE} AS source
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/opt/prefixrack/bin:$PATH
WORKDIR /src
RUN python3 -m venv /opt/prefixrack
COPY constraints.txt ./
# The pinned Triton is for tests on CPUs; torch for GPUs brings the one that it was built with.
RUN grep -v '^triton==' constraints.txt > image-constraints.txt

FROM source AS build-cpu
ARG TORCH_INDEX_URL=
# torch first and alone, in a layer of its own: it changes seldom and weighs most
RUN pip install --constraint image-constraints.txt ${TORCH_INDEX_URL:+--extra-index-url "${TORCH_INDEX_URL}"} torch
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY adapters adapters
COPY server server
RUN pip install --constraint image-constraints.txt '.[demo,otel]'

FROM source AS build-cuda
RUN pip install --constraint image-constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY adapters adapters
COPY server server
RUN pip install --constraint image-constraints.txt '.[demo,otel]'

FROM ${BASE} AS runtime
# The attention kernels of CPUs are compiled for the very processor, at the first start; Triton compiles too. Without a
# compiler the server runs, slower.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 prefixrack \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin prefixrack \
    && install --directory --owner=10001 --group=10001 /data /cache /blobs
ENV PATH=/opt/prefixrack/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/cache/huggingface \
    TRITON_CACHE_DIR=/cache/triton \
    PREFIXRACK_CACHE=/cache/prefixrack \
    PREFIXRACK_HTTP__HOST=0.0.0.0 \
    PREFIXRACK_BACKBONE__PATH=embedded \
    PREFIXRACK_REGISTRY__STATE_DIR=/data \
    PREFIXRACK_REGISTRY__ADAPTERS_DIR=/opt/prefixrack/examples
# by number: Kubernetes' runAsNonRoot cannot look a name up
USER 10001:10001
# What is written: state, compiled kernels with backbones from the hub, and /tmp. All else may be read-only.
VOLUME ["/data", "/cache"]
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/ready', timeout=3)"]
# the admin key is printed once, at the first start: `docker logs`
CMD ["prefixrack", "serve"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/prefixrack /opt/prefixrack
COPY adapters/examples /opt/prefixrack/examples

FROM runtime AS cpu
COPY --from=build-cpu /opt/prefixrack /opt/prefixrack
COPY adapters/examples /opt/prefixrack/examples
