FROM python:3.11-slim
WORKDIR /srv/palettery
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY palettery palettery
COPY app app
COPY schemas schemas
COPY kernels kernels
# The sandbox of strangers' models takes libseccomp; docs/security.md.
RUN apt-get update && apt-get install -y --no-install-recommends libseccomp2 \
    && rm -rf /var/lib/apt/lists/*
# The CPU build of torch; for GPUs, build with TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --extra-index-url ${TORCH_INDEX} --constraint constraints.txt . \
    && useradd --create-home palettery && install -d -o palettery /data /var/cache/palettery
USER palettery
# Kernels are compiled here, so that a container is ready within seconds, not a minute and a half: for
# a level of processors, not for the one of this machine. A processor without AVX2, or of another
# kind, compiles its own at its first start; so does whoever sets another level.
ENV NUMBA_CACHE_DIR=/var/cache/palettery NUMBA_CPU_NAME=x86-64-v3 NUMBA_CPU_FEATURES=
RUN python -c "from palettery import kernels; kernels.warm_up()"
# On this address the API starts only with keys: run it with a PALETTERY_ADMIN_KEY.
ENV PALETTERY_DATA_DIR=/data PALETTERY_HOST=0.0.0.0 PALETTERY_PORT=8400
VOLUME /data
EXPOSE 8400
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8400/readyz')"]
CMD ["palettery", "serve"]
