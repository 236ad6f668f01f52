"""One etcd and one kube-apiserver on loopback, with RBAC, that can be cut and restored.

No controller manager runs: nothing collects garbage, creates default ServiceAccounts or finishes a
namespace's deletion (`target.Target.delete_namespace` does the latter).
"""

import asyncio
import secrets
import shutil
import socket
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from pveha.devkube import access, binaries, errors, pki, process

READY_SECONDS = 60.0
POLL_SECONDS = 0.1


class ControlPlane:
    """A context manager, ordinary or asynchronous; ready for requests inside the block, gone after it.

    `admin` may do everything. Data, logs and keys live in a folder of its own that is removed at the end.
    """

    def __init__(self, programs: binaries.Binaries) -> None:
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="pveha-kube-"))
        self.admin = access.Access(programs.kubectl, self.folder / "admin.kubeconfig")
        self._token = secrets.token_urlsafe(32)
        self._authority = pki.Authority(self.folder)
        self._port, self._etcd_port = free_ports(2)
        self._tls = ssl.create_default_context(cafile=str(self._authority.certificate))
        self._etcd: process.Process | None = None
        self._api: process.Process | None = None
        self._write_files()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def api_server_pid(self) -> int | None:
        """None while the API server is stopped."""
        return self._api.pid if self._api else None

    def __enter__(self) -> Self:
        try:
            self._spawn()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        try:
            self._spawn()
            await asyncio.to_thread(self.wait_ready)
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def kill_api_server(self) -> None:
        """Cuts the API server as a power failure would; etcd and the data stay."""
        if self._api:
            self._api.kill()
            self._api = None

    def start_api_server(self) -> None:
        """Starts it again on the same port, data, keys and tokens; returns when it is ready."""
        self._spawn_api_server()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Returns when *our* API server is ready: its certificate is of our authority, our token is known."""
        deadline = time.monotonic() + READY_SECONDS
        request = urllib.request.Request(
            f"{self.url}/readyz", headers={"Authorization": f"Bearer {self._token}"}
        )
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls)
        )
        problem: Exception | None = None
        while time.monotonic() < deadline:
            for server in (self._etcd, self._api):
                if server is None or not server.is_alive:
                    raise errors.DevkubeError(
                        f"{server.name} ended:\n{server.tail()}" if server else "It was stopped."
                    )
            try:
                with opener.open(request, timeout=5):
                    return
            except (urllib.error.URLError, OSError) as failure:
                problem = failure
            time.sleep(POLL_SECONDS)
        tail = self._api.tail() if self._api else ""
        raise errors.DevkubeError(
            f"The API server was not ready within {READY_SECONDS:.0f} s ({problem}):\n{tail}"
        )

    def close(self) -> None:
        """Ends both processes and removes the folder; may be called twice."""
        self.kill_api_server()
        if self._etcd:
            self._etcd.kill()
            self._etcd = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_files(self) -> None:
        pki.signing_key(self.folder / "accounts.key")
        self._authority.issue("server")
        tokens = self.folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')
        access.write_kubeconfig(
            self.admin.kubeconfig, self.url, self._authority.certificate.read_bytes(), self._token
        )

    def _spawn(self) -> None:
        ours = self.folder
        tls = [
            f"--cert-file={ours}/server.crt",
            f"--key-file={ours}/server.key",
            f"--trusted-ca-file={ours}/ca.crt",
        ]
        url = f"https://127.0.0.1:{self._etcd_port}"
        self._etcd = process.Process(
            [
                self.programs.etcd,
                f"--data-dir={ours}/etcd",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                "--listen-peer-urls=http://127.0.0.1:0",
                *tls,
                "--client-cert-auth",
                "--unsafe-no-fsync",
            ],
            ours / "etcd.log",
            leftover=ours,
        )
        self._spawn_api_server()

    def _spawn_api_server(self) -> None:
        ours = self.folder
        self._api = process.Process(
            [
                self.programs.kube_apiserver,
                f"--etcd-servers=https://127.0.0.1:{self._etcd_port}",
                f"--etcd-cafile={ours}/ca.crt",
                f"--etcd-certfile={ours}/server.crt",
                f"--etcd-keyfile={ours}/server.key",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
                f"--secure-port={self._port}",
                f"--cert-dir={ours}",
                f"--tls-cert-file={ours}/server.crt",
                f"--tls-private-key-file={ours}/server.key",
                "--anonymous-auth=false",
                f"--token-auth-file={ours}/tokens.csv",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={ours}/accounts.key",
                f"--service-account-signing-key-file={ours}/accounts.key",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--disable-admission-plugins=ServiceAccount",
                "--shutdown-watch-termination-grace-period=0s",
            ],
            ours / "kube-apiserver.log",
        )


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago; who loses a race for one says so in its log."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
