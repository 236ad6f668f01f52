# The operator's image.
#
#     docker build -t REGISTRY/pveha:0.1.0 .
#     docker build -t REGISTRY/pveha:0.1.0-fence-agents --target with-fence-agents .
#
# Debian, because some packages have no wheels for musl. Nothing is downloaded at run time, the root file system may be
# read-only, and the user is nobody's: uid 65532.
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
COPY requirements.image.lock /src/
RUN python3 -m venv /opt/pveha
RUN /opt/pveha/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: --require-hashes -r /src/requirements.image.lock
COPY pyproject.toml README.md LICENSE /src/
COPY operator /src/operator
RUN /opt/pveha/bin/pip install --no-cache-dir --disable-pip-version-check --no-build-isolation --no-deps /src
RUN /opt/pveha/bin/pip uninstall --yes setuptools
RUN /opt/pveha/bin/pip uninstall --yes pip

FROM ${BASE} AS operator
COPY --from=build /opt/pveha /opt/pveha
ENV PATH=/opt/pveha/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN echo 'pveha:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd && echo 'pveha:x:65532:' >> /etc/group
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["pveha"]
CMD ["run", "--all-namespaces"]

FROM operator AS with-fence-agents
USER 0:0
RUN apt-get update && apt-get install --yes --no-install-recommends fence-agents && rm -rf /var/lib/apt/lists/*
USER 65532:65532

# The default target.
FROM operator
