# An image with the library and JAX for GPUs or TPUs:
#   docker build --build-arg ACCELERATOR=cuda -t score-sde .
#   docker build --build-arg ACCELERATOR=tpu -t score-sde-tpu .
#   docker run --gpus all -v "$PWD/runs:/work/runs" score-sde --config vp/ddpmpp_cont --mode train
FROM python:3.12-slim-bookworm

# The name of an extra of pyproject.toml: cuda or tpu.
ARG ACCELERATOR=cuda

COPY . /opt/score_sde
RUN pip install --no-cache-dir "/opt/score_sde[${ACCELERATOR}]" \
    && useradd --create-home --uid 1000 user \
    && mkdir /work \
    && chown user /work

USER 1000
WORKDIR /work
ENTRYPOINT ["score-sde"]
