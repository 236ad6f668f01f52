"""The port `Kubernetes` to a real API server.

Requests go through the official client's transport (TLS, tokens, proxies); bodies are plain JSON values,
because its models refuse fields that a newer server adds. Every request has a total deadline, body included.
"""

import asyncio
import base64
import binascii
import collections
import contextlib
import json
import logging
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
from kubernetes.aio import client as library
from kubernetes.aio.client import exceptions as library_errors

from pveha import api
from pveha.kube import config
from pveha.model import errors, kubernetes

REQUEST_SECONDS = 5.0
"""Deadline of a request for one object."""
LIST_SECONDS = 30.0
PAGE = 500
FIELD_MANAGER = "pveha"
ENROLMENT_MANAGER = "pveha-enrolment"
"""Of the ProtectedVMs that pveha makes."""

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

_PLURALS = {resource.kind_name: resource.plural for resource in api.RESOURCES}

log = logging.getLogger(__name__)


class ApiServer:
    """The API server that `access` leads to; an asynchronous context manager that closes its connections."""

    def __init__(self, access: config.Access, request_seconds: float = REQUEST_SECONDS) -> None:
        self._access = access
        self._seconds = request_seconds
        self._client: library.ApiClient | None = None
        self._retired: collections.deque[tuple[float, library.ApiClient]] = collections.deque()
        """Replaced clients, with when: requests may still be under way on them."""
        self._loading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, client in self._retired:
            await client.close()  # type: ignore[no-untyped-call]
        if self._client:
            await self._client.close()  # type: ignore[no-untyped-call]

    async def identity(self) -> str:
        """See the port."""
        answer = await self._request("GET", "/api/v1/namespaces/kube-system")
        return str(_get(answer, "metadata", "uid"))

    async def list_objects(self, kind: str, namespace: str | None) -> kubernetes.Listing:
        """See the port. Pages are of one moment; a listing that expires in between begins anew."""
        path = _collection(kind, namespace)
        try:
            return await self._list(path)
        except _ExpiredError:
            return await self._list(path)

    async def list_others(self, path: str, labels: str = "") -> tuple[kubernetes.Manifest, ...]:
        """Objects of a kind that is not pveha's, by the path of their collection, such as `/api/v1/nodes`,
        and a label selector. Not part of the port."""
        return (await self._list(path, {"labelSelector": labels} if labels else {})).objects

    async def _list(self, path: str, selector: Mapping[str, str] | None = None) -> kubernetes.Listing:
        objects: list[kubernetes.Manifest] = []
        following = ""
        while True:
            query = {"limit": str(PAGE), **(selector or {})} | ({"continue": following} if following else {})
            answer = await self._request("GET", path, query=query, seconds=LIST_SECONDS)
            head = {
                "apiVersion": answer.get("apiVersion"),
                "kind": str(answer.get("kind")).removesuffix("List"),
            }
            objects += [head | item for item in answer.get("items") or ()]
            metadata = _get(answer, "metadata")
            if not (following := metadata.get("continue") or ""):
                return kubernetes.Listing(tuple(objects), str(metadata.get("resourceVersion", "")))

    async def apply_status(
        self, ref: kubernetes.ObjectRef, status: kubernetes.Manifest, resource_version: str = ""
    ) -> kubernetes.Manifest:
        """See the port. (A uid in the body is not looked at by the server, a resourceVersion is.)"""
        version = {"resourceVersion": resource_version} if resource_version else {}
        body = {
            "apiVersion": api.API_VERSION,
            "kind": ref.kind,
            "metadata": {"namespace": ref.namespace, "name": ref.name, **version},
            "status": status,
        }
        path = f"{_collection(ref.kind, ref.namespace)}/{_quote(ref.name)}/status"
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._request("PATCH", path, query=query, body=body, content_type=APPLY)

    async def apply_guest(self, manifest: kubernetes.Manifest, *, ours: bool) -> kubernetes.Manifest:
        """See the port."""
        metadata = _get(manifest, "metadata")
        path = f"{_collection('ProtectedVM', metadata['namespace'])}/{_quote(metadata['name'])}"
        query = {"fieldManager": ENROLMENT_MANAGER, "force": "true" if ours else "false"}
        return await self._request("PATCH", path, query=query, body=manifest, content_type=APPLY)

    async def delete_guest(self, ref: kubernetes.ObjectRef, resource_version: str) -> None:
        """See the port."""
        path = f"{_collection(ref.kind, ref.namespace)}/{_quote(ref.name)}"
        preconditions = {"uid": ref.uid, "resourceVersion": resource_version}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        await self._request("DELETE", path, body=options)

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        """See the port."""
        answer = await self._request("GET", f"/api/v1/namespaces/{_quote(namespace)}/secrets/{_quote(name)}")
        try:
            return {key: base64.b64decode(value) for key, value in (answer.get("data") or {}).items()}
        except (binascii.Error, TypeError):
            raise errors.BadAnswer(f"Secret {namespace}/{name}: data that is not base64") from None

    async def record(self, occurrence: kubernetes.Occurrence) -> None:
        """See the port."""
        ref = occurrence.regarding
        path = f"/apis/events.k8s.io/v1/namespaces/{_quote(ref.namespace)}/events"
        if occurrence.count > 1:
            series = {
                "count": occurrence.count,
                "lastObservedTime": _micro_time(occurrence.last_timestamp),
            }
            try:
                await self._request(
                    "PATCH", f"{path}/{_quote(occurrence.name)}", body={"series": series}, content_type=MERGE
                )
                return
            except errors.NotFound:
                pass  # expired (an hour by default): begin again
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": ref.namespace, "name": occurrence.name},
            "eventTime": _micro_time(occurrence.first_timestamp),
            "regarding": {
                "apiVersion": api.API_VERSION,
                "kind": ref.kind,
                "namespace": ref.namespace,
                "name": ref.name,
                **({"uid": ref.uid} if ref.uid else {}),
            },
            "reason": occurrence.reason,
            "note": occurrence.message,
            "type": "Warning" if occurrence.warning else "Normal",
            "action": occurrence.reason,
            "reportingController": "pveha.dev/operator",
            "reportingInstance": occurrence.instance[:128],
        }
        # An earlier try that seemed to fail may have had its effect.
        with contextlib.suppress(errors.AlreadyExists):
            await self._request("POST", path, body=body)

    async def get_lease(self, namespace: str, name: str) -> kubernetes.Lease:
        """See the port."""
        return _lease(await self._request("GET", f"{_leases(namespace)}/{_quote(name)}"))

    async def create_lease(self, lease: kubernetes.Lease) -> kubernetes.Lease:
        """See the port."""
        return _lease(await self._request("POST", _leases(lease.namespace), body=_lease_body(lease)))

    async def update_lease(self, lease: kubernetes.Lease) -> kubernetes.Lease:
        """See the port."""
        path = f"{_leases(lease.namespace)}/{_quote(lease.name)}"
        return _lease(await self._request("PUT", path, body=_lease_body(lease)))

    async def _connect(self, stale: library.ApiClient | None = None) -> library.ApiClient:
        """The client; one that is `stale` is replaced by one with credentials read anew."""
        async with self._loading:
            if self._client is None or self._client is stale:
                fresh = library.ApiClient(await self._access.load())
                now = asyncio.get_running_loop().time()
                if self._client:
                    self._retired.append((now, self._client))
                while self._retired and now - self._retired[0][0] > LIST_SECONDS:
                    await self._retired.popleft()[1].close()  # type: ignore[no-untyped-call]
                self._client = fresh
            return self._client

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """One request; tokens that are refused are read anew once."""
        client = await self._connect()
        arguments = (method, path, query or {}, body, content_type, seconds or self._seconds)
        try:
            return await self._send(client, *arguments)
        except errors.Unauthorized:
            return await self._send(await self._connect(stale=client), *arguments)

    async def _send(
        self,
        client: library.ApiClient,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        content_type: str,
        seconds: float,
    ) -> dict[str, Any]:
        what = f"{method} {path}"
        try:
            async with asyncio.timeout(seconds):
                verb, url, headers, payload, _ = await client.param_serialize(
                    method,
                    path,
                    query_params=list(query.items()),
                    header_params={"Accept": JSON, "Content-Type": content_type},
                    body=dict(body) if body is not None else None,
                    auth_settings=["BearerToken"],
                )
                response = await client.call_api(
                    verb,
                    url,
                    headers,
                    payload,
                    _request_timeout=aiohttp.ClientTimeout(total=seconds),
                )
                data: bytes = await response.read()  # type: ignore[no-untyped-call]
        except aiohttp.ClientSSLError as error:
            raise errors.Untrusted(f"{what}: {error}") from error
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            raise errors.Unreachable(f"{what}: {str(error) or f'no answer in {seconds:.0f} s'}") from error
        except library_errors.ApiException as error:
            raise errors.Unreachable(f"{what}: {error.reason}") from error
        if 200 <= response.status < 300:
            return _parse(what, data)
        raise _error(what, response.status, str(response.reason), data)


class _ExpiredError(errors.Unreachable):
    """410: the moment a listing or watch asks for is no longer known."""


def _error(what: str, status: int, reason: str, data: bytes) -> errors.OutsideError:
    """The typed error of an HTTP status; the message is the server's sentence."""
    try:
        answer = _parse(what, data)
    except errors.BadAnswer:
        answer = {}
    text = f"{what}: {answer.get('message') or f'{status} {reason}'}"
    match status:
        case 401:
            return errors.Unauthorized(text)
        case 403:
            return errors.Forbidden(text)
        case 404:
            return errors.NotFound(text)
        case 409 if answer.get("reason") == "AlreadyExists":
            return errors.AlreadyExists(text)
        case 409:
            return errors.Conflict(text)
        case 410:
            return _ExpiredError(text)
        case 408 | 429 | 500 | 502 | 503 | 504:
            return errors.Unreachable(text)
        case _:
            return errors.Refused(text)


def _parse(what: str, data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise errors.BadAnswer(f"{what}: the answer is no JSON object")
    return answer


def _get(answer: Mapping[str, Any], *names: str) -> Any:
    value: Any = answer
    for name in names:
        if not isinstance(value, Mapping) or name not in value:
            raise errors.BadAnswer(f"the answer has no {'.'.join(names)}")
        value = value[name]
    return value


def _quote(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _collection(kind: str, namespace: str | None) -> str:
    inside = f"namespaces/{_quote(namespace)}/" if namespace else ""
    return f"/apis/{api.API_VERSION}/{inside}{_PLURALS[kind]}"


def _leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{_quote(namespace)}/leases"


def _lease(answer: Mapping[str, Any]) -> kubernetes.Lease:
    metadata, spec = _get(answer, "metadata"), answer.get("spec") or {}
    try:
        return kubernetes.Lease(
            namespace=metadata["namespace"],
            name=metadata["name"],
            holder=spec.get("holderIdentity") or "",
            duration_seconds=int(spec.get("leaseDurationSeconds") or 0),
            acquire_timestamp=_timestamp(spec.get("acquireTime")),
            renew_timestamp=_timestamp(spec.get("renewTime")),
            transitions=int(spec.get("leaseTransitions") or 0),
            resource_version=metadata["resourceVersion"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise errors.BadAnswer(f"Lease {metadata.get('name')}: {error!r}") from error


def _lease_body(lease: kubernetes.Lease) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "namespace": lease.namespace,
        "name": lease.name,
        "labels": {"app.kubernetes.io/managed-by": "pveha"},
    }
    if lease.resource_version:
        metadata["resourceVersion"] = lease.resource_version
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": lease.holder,
            "leaseDurationSeconds": lease.duration_seconds,
            "acquireTime": _micro_time(lease.acquire_timestamp),
            "renewTime": _micro_time(lease.renew_timestamp),
            "leaseTransitions": lease.transitions,
        },
    }


def _micro_time(timestamp: float) -> str:
    """Kubernetes' MicroTime."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _timestamp(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
