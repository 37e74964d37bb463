# syntax=docker/dockerfile:1
# The server with the embedded backbone and the example adapters.
#   docker build -t prefixrack .
#   docker run --rm -p 8000:8000 -v prefixrack-data:/data prefixrack
# TORCH_INDEX_URL may name PyTorch's documented index of CPU builds (pytorch.org, "Get Started"): without it the default
# index is used, whose Linux builds of torch bring CUDA.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
ARG TORCH_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/prefixrack
ENV PATH=/opt/prefixrack/bin:$PATH
COPY constraints.txt ./
# torch first and alone, in a layer of its own: it changes seldom and weighs most
RUN pip install --constraint constraints.txt ${TORCH_INDEX_URL:+--extra-index-url ${TORCH_INDEX_URL}} torch
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY adapters adapters
COPY server server
RUN pip install --constraint constraints.txt '.[demo]'

FROM python:${PYTHON_VERSION}-slim
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin prefixrack \
    && install --directory --owner=prefixrack --group=prefixrack /data
COPY --from=build /opt/prefixrack /opt/prefixrack
COPY --from=build /src/adapters/examples /opt/prefixrack/examples
ENV PATH=/opt/prefixrack/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PREFIXRACK_HTTP__HOST=0.0.0.0 \
    PREFIXRACK_BACKBONE__PATH=embedded \
    PREFIXRACK_REGISTRY__STATE_DIR=/data \
    PREFIXRACK_REGISTRY__ADAPTERS_DIR=/opt/prefixrack/examples
USER prefixrack
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/ready', timeout=3)"]
# the admin key is printed once, at the first start: `docker logs`
CMD ["prefixrack", "serve"]
