# The operator's image.
#
#     docker build -t REGISTRY/pveha:0.1.0 .
#     docker build -t REGISTRY/pveha:0.1.0-fence-agents --target with-fence-agents .
#
# Debian, because some packages have no wheels for musl. Nothing is downloaded at run time, the root file system may be
# read-only, and the user is nobody's: uid 65532.
# Python 3.12: from 3.13 on, the authorities of some Kubernetes distributions are not trusted (VERIFY_X509_STRICT).
ARG BASE=python:3.12-slim-trixie

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

# Agents of BMCs, chassis and PDUs: what cuts the power of a machine. (Debian's `fence-agents` brings those of clouds as
# well, 1.5 GB.)
FROM operator AS with-fence-agents
USER 0:0
RUN apt-get update && apt-get install --yes --no-install-recommends \
    fence-agents-amt fence-agents-apc fence-agents-apc-snmp fence-agents-bladecenter fence-agents-cdu \
    fence-agents-cisco-ucs fence-agents-cyberpower-ssh fence-agents-drac fence-agents-drac5 \
    fence-agents-eaton-snmp fence-agents-eaton-ssh fence-agents-emerson fence-agents-eps fence-agents-hpblade \
    fence-agents-ibmblade fence-agents-ilo-moonshot fence-agents-ilo-mp fence-agents-ilo-ssh \
    fence-agents-ilo2 fence-agents-intelmodular fence-agents-ipdu fence-agents-ipmilan fence-agents-lindy-pdu \
    fence-agents-netio fence-agents-powerman fence-agents-raritan fence-agents-raritan-px3 \
    fence-agents-redfish fence-agents-rsa fence-agents-rsb fence-agents-wti \
    && rm -rf /var/lib/apt/lists/*
USER 65532:65532

# The default target.
FROM operator
