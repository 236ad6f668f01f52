"""How to reach the API server: a kubeconfig and its context, or the pod's own service account."""

import dataclasses
import os
from pathlib import Path
from typing import Protocol, cast

import yaml
from kubernetes.aio import client as library
from kubernetes.aio import config as loader

from pveha.model import errors


class Configuration(Protocol):
    """The part of the library's configuration that is used here and by kopf's login."""

    host: str
    ssl_ca_cert: str | None
    verify_ssl: bool
    cert_file: str | None
    key_file: str | None
    username: str | None
    password: str | None
    proxy: str | None

    async def get_api_key_with_prefix(self, identifier: str) -> str | None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """What the command line says; otherwise $KUBECONFIG, the pod, ~/.kube/config are tried."""

    kubeconfig: Path | None = None
    context: str | None = None

    async def load(self) -> Configuration:
        """Read everything anew, so that renewed tokens and certificates are found.

        Raises `InvalidConfiguration`.
        """
        configuration = library.Configuration()
        try:
            if self._in_cluster():
                loader.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                path = str(self.kubeconfig) if self.kubeconfig else None
                await loader.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=path,
                    context=self.context,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (loader.ConfigException, OSError, yaml.YAMLError) as error:
            raise errors.InvalidConfiguration(
                f"no way to the Kubernetes API: {error}; name a file with --kubeconfig, or run in a pod"
            ) from error
        return cast(Configuration, configuration)

    def _in_cluster(self) -> bool:
        return not (self.kubeconfig or self.context or os.environ.get("KUBECONFIG")) and (
            "KUBERNETES_SERVICE_HOST" in os.environ
        )
