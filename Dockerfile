FROM python:3.11-slim
WORKDIR /srv/palettery
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY schemas schemas
COPY kernels kernels
# The sandbox of strangers' models takes libseccomp; docs/security.md.
RUN apt-get update && apt-get install -y --no-install-recommends libseccomp2 \
    && rm -rf /var/lib/apt/lists/*
# The CPU build of torch; for GPUs, build with TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --extra-index-url ${TORCH_INDEX} --constraint constraints.txt . \
    && useradd --create-home palettery && install -d -o palettery /data
USER palettery
# On this address the API starts only with keys: run it with a PALETTERY_ADMIN_KEY.
ENV PALETTERY_DATA_DIR=/data PALETTERY_HOST=0.0.0.0 PALETTERY_PORT=8400
VOLUME /data
EXPOSE 8400
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8400/readyz')"]
CMD ["palettery", "serve"]
