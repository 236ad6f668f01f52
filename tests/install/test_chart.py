"""What a user relies on when setting the chart's values."""

import json
import re
import subprocess
from typing import Any

import pytest

from install import render
from pveha.cli import __main__ as command_line
from pveha.control import elector, operator
from pveha.devkube import tools

Json = Any

RESOURCES = {"haclusters", "failoverpolicies", "protectedvms"}


@pytest.fixture(scope="module")
def default(tools_here: tools.Tools) -> list[render.Object]:
    return render.template(tools_here.helm)


def pod(objects: list[render.Object]) -> Json:
    return render.one(objects, "Deployment")["spec"]["template"]["spec"]


def container(objects: list[render.Object]) -> Json:
    (only,) = pod(objects)["containers"]
    return only


def allowed(role: render.Object, resource: str) -> set[str]:
    """The verbs of a role on a resource."""
    return {verb for rule in role["rules"] if resource in rule["resources"] for verb in rule["verbs"]}


def test_lint_is_content(tools_here: tools.Tools) -> None:
    chart = str(render.CHART)
    command = [str(tools_here.helm), "lint", "--strict", chart, "--set", "image.repository=pveha"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout
    assert not re.search(r"\[(WARNING|ERROR)\]", answer.stdout)


def test_without_an_image_it_says_what_to_do(tools_here: tools.Tools) -> None:
    with pytest.raises(render.RefusedError, match="build the Dockerfile, push it to a registry of yours"):
        render.template(tools_here.helm, {"image": {"repository": ""}})


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "pveha:0.1.0"),
        ({"tag": "0.1.0-fence-agents"}, "pveha:0.1.0-fence-agents"),
        ({"tag": "ignored", "digest": f"sha256:{'a' * 64}"}, f"pveha@sha256:{'a' * 64}"),
    ],
)
def test_which_image(tools_here: tools.Tools, image: Json, reference: str) -> None:
    assert container(render.template(tools_here.helm, {"image": image}))["image"] == reference


def test_two_replicas_on_different_nodes_that_do_not_wait_for_a_dead_one(
    default: list[render.Object],
) -> None:
    assert render.one(default, "Deployment")["spec"]["replicas"] == 2
    (spread,) = pod(default)["topologySpreadConstraints"]
    labels = render.one(default, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == (
        "kubernetes.io/hostname",
        "DoNotSchedule",
    )
    assert spread["nodeTaintsPolicy"] == "Honor"
    seconds = {each["key"]: each["tolerationSeconds"] for each in pod(default)["tolerations"]}
    assert seconds == {"node.kubernetes.io/not-ready": 15, "node.kubernetes.io/unreachable": 15}
    assert render.one(default, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_a_single_replica_has_no_budget_that_would_block_every_drain(tools_here: tools.Tools) -> None:
    objects = render.template(tools_here.helm, {"replicas": 1})
    assert not [each for each in objects if each["kind"] == "PodDisruptionBudget"]


def test_selectors_find_the_pods(default: list[render.Object]) -> None:
    labels = render.one(default, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        render.one(default, "Deployment")["spec"]["selector"]["matchLabels"],
        render.one(default, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        render.one(default, "Service")["spec"]["selector"],
    ):
        assert selector.items() <= labels.items()


def test_the_container_can_do_next_to_nothing(default: list[render.Object]) -> None:
    assert pod(default)["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(default)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod(default))
    assert [set(volume) for volume in pod(default)["volumes"]] == [{"name", "emptyDir"}]


def test_the_pod_has_time_to_give_its_leases_back(default: list[render.Object]) -> None:
    assert pod(default)["terminationGracePeriodSeconds"] > operator.STOP_SECONDS


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"watchNamespaces": ["dc1", "dc2"], "leaseSeconds": 30, "log": {"format": "text", "level": "debug"}},
    ],
    ids=["default", "set"],
)
def test_the_command_line_understands_the_arguments(
    tools_here: tools.Tools, values: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pveha.cli import run

    seen: list[Json] = []

    def record(args: Json) -> int:
        seen.append(args)
        return 0

    monkeypatch.setattr(run, "run", record)
    arguments = container(render.template(tools_here.helm, values))["args"]
    assert command_line.main(arguments) == 0
    (parsed,) = seen
    assert parsed.namespaces == values.get("watchNamespaces")
    assert parsed.all_namespaces is (not values)
    assert parsed.lease_seconds == values.get("leaseSeconds", elector.DURATION_SECONDS)
    assert parsed.log_format == ("text" if values else "json")
    assert parsed.kubeconfig is None, "the pod's own account"


def test_probes_and_metrics_are_where_the_operator_serves_them(default: list[render.Object]) -> None:
    (port,) = container(default)["ports"]
    assert f"--health-port={port['containerPort']}" in container(default)["args"]
    paths = {
        name: container(default)[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")
    }
    assert {name: probe["path"] for name, probe in paths.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    (served,) = render.one(default, "Service")["spec"]["ports"]
    assert {served["targetPort"], *(probe["port"] for probe in paths.values())} == {port["name"]}


def test_a_service_monitor_only_on_request(tools_here: tools.Tools, default: list[render.Object]) -> None:
    assert not [each for each in default if each["kind"] == "ServiceMonitor"]
    wanted = {"metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}}
    objects = render.template(tools_here.helm, wanted)
    monitor = render.one(objects, "ServiceMonitor")
    service = render.one(objects, "Service")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (service["spec"]["ports"][0]["name"], "/metrics")


def test_by_default_it_serves_all_namespaces(default: list[render.Object]) -> None:
    role = render.one(default, "ClusterRole")
    assert {resource for rule in role["rules"] for resource in rule["resources"]} >= RESOURCES
    assert allowed(role, "secrets") == {"get"}, "by name: no listing"
    assert not [each for each in default if each["kind"] in ("Role", "RoleBinding")]


def test_secrets_of_some_namespaces_only(tools_here: tools.Tools) -> None:
    objects = render.template(tools_here.helm, {"rbac": {"secretNamespaces": ["dc1", "dc2"]}})
    assert allowed(render.one(objects, "ClusterRole"), "secrets") == set()
    assert allowed(render.one(objects, "ClusterRole"), "protectedvms") == {
        "list",
        "watch",
        "create",
        "patch",
        "delete",
    }
    for namespace in ("dc1", "dc2"):
        role = render.one(objects, "Role", namespace=namespace)
        assert role["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
        binding = render.one(objects, "RoleBinding", namespace=namespace)
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "pveha", "namespace": "pveha"}]


def test_watched_namespaces_only(tools_here: tools.Tools, default: list[render.Object]) -> None:
    objects = render.template(tools_here.helm, {"watchNamespaces": ["dc1"]})
    everywhere = render.one(objects, "ClusterRole")
    assert everywhere["rules"] == [
        {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": ["get"]}
    ]
    inside = render.one(objects, "Role", namespace="dc1")
    together = json.dumps(inside["rules"] + everywhere["rules"])
    assert together == json.dumps(render.one(default, "ClusterRole")["rules"])


def test_watched_namespaces_and_secrets_of_another(tools_here: tools.Tools) -> None:
    values = {"watchNamespaces": ["dc1"], "rbac": {"secretNamespaces": ["vault"]}}
    objects = render.template(tools_here.helm, values)
    assert allowed(render.one(objects, "Role", namespace="dc1"), "secrets") == set()
    assert allowed(render.one(objects, "Role", namespace="vault"), "secrets") == {"get"}


def test_rights_can_be_bound_elsewhere(tools_here: tools.Tools) -> None:
    objects = render.template(
        tools_here.helm,
        {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "mine"}},
    )
    assert {each["kind"] for each in objects} == {
        "CustomResourceDefinition",
        "Deployment",
        "PodDisruptionBudget",
        "Service",
    }
    assert pod(objects)["serviceAccountName"] == "mine"


def test_definitions_stay_unless_told_otherwise(
    tools_here: tools.Tools, default: list[render.Object]
) -> None:
    def kept(objects: list[render.Object]) -> list[str | None]:
        return [
            each["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
            for each in objects
            if each["kind"] == "CustomResourceDefinition"
        ]

    assert kept(default) == ["keep"] * 3
    assert kept(render.template(tools_here.helm, {"crds": {"keep": False}})) == [None] * 3
    assert kept(render.template(tools_here.helm, {"crds": {"install": False}})) == []


def test_the_admission_policy_is_the_one_of_the_manifests(
    tools_here: tools.Tools, default: list[render.Object]
) -> None:
    name = "one-guest-one-protectedvm.yaml"
    shipped = (render.ROOT / "manifests" / "policies" / name).read_text()
    assert (render.CHART / "files" / name).read_text() == shipped
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    assert not [each for each in default if each["kind"] in kinds]
    objects = render.template(tools_here.helm, {"admissionPolicy": {"oneGuestOneProtectedVM": True}})
    assert len([each for each in objects if each["kind"] in kinds]) == 2


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"replicaCount": 3}, "replicaCount"),
        ({"replicas": 0}, "replicas"),
        ({"leaseSeconds": 5}, "leaseSeconds"),
        ({"log": {"level": "loud"}}, "level"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"watchNamespaces": ["No_Namespace"]}, "watchNamespaces"),
    ],
    ids=str,
)
def test_values_that_mean_nothing_are_refused(tools_here: tools.Tools, values: Json, sentence: str) -> None:
    with pytest.raises(render.RefusedError, match=sentence):
        render.template(tools_here.helm, values)


def test_two_releases_share_no_name(tools_here: tools.Tools, default: list[render.Object]) -> None:
    other = render.template(tools_here.helm, release="second", namespace="second")
    definitions = "CustomResourceDefinition"
    names = {each["metadata"]["name"] for each in default if each["kind"] != definitions}
    assert not names & {each["metadata"]["name"] for each in other if each["kind"] != definitions}


def test_the_versions_agree(tools_here: tools.Tools) -> None:
    import pveha

    shown = subprocess.run(
        [tools_here.helm, "show", "chart", render.CHART], check=True, capture_output=True, text=True
    ).stdout
    assert f"appVersion: {pveha.__version__}" in shown.replace('"', "")
