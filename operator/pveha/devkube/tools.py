"""helm and kubeconform, for the tests of the chart and the manifests; the first that has both wins.

1. KUBEBUILDER_ASSETS, then the PATH: helm of the major version below, any kubeconform.
2. Our cache.
3. A build from the Go module in `wrapper_tools/`.
"""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pveha.devkube import binaries, build, cache

HELM_VERSION = "3.22.0"
KUBECONFORM_VERSION = "0.8.0"
KUBERNETES = ("1", "37")
"""What helm takes the API server for where it asks none: the version of its own client library."""

MODULE = build.WRAPPER.with_name("wrapper_tools")
TARGETS = ("helm.sh/helm/v3/cmd/helm", "github.com/yannh/kubeconform/cmd/kubeconform")
STAMPS = {
    "helm.sh/helm/v3/internal/version.version": f"v{HELM_VERSION}",
    **{
        f"helm.sh/helm/v3/pkg/{package}.k8sVersion{part}": value
        for package in ("chartutil", "lint/rules")
        for part, value in zip(("Major", "Minor"), KUBERNETES, strict=True)
    },
}
PROBES = {
    "helm": (["version", "--template", "{{.Version}}"], f"v{HELM_VERSION.split('.')[0]}."),
    "kubeconform": (["-v"], ""),
}
"""How a program is asked for its version, and how the answer has to begin."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """The two programs."""

    helm: Path
    kubeconform: Path


def ensure(say: cache.Say = cache.say_on_stderr, environ: Mapping[str, str] = os.environ) -> Tools:
    """Finds or makes the two programs; safe to call from several processes at once."""
    search = os.pathsep.join(
        folder for name in ("KUBEBUILDER_ASSETS", "PATH") if (folder := environ.get(name))
    )
    own = {name: shutil.which(name, path=search) for name in PROBES}
    if all(path is not None and runs(Path(path), name) for name, path in own.items()):
        return Tools(*(Path(str(own[name])) for name in ("helm", "kubeconform")))
    shelf = cache.folder(environ) / "devkube"
    built = shelf / f"tools-helm-{HELM_VERSION}-kubeconform-{KUBECONFORM_VERSION}-{binaries.platform_name()}"
    if not built.is_dir():
        with cache.exclusive(shelf / ".lock", say):
            if not built.is_dir():
                with cache.new_entry(built) as draft:
                    what = f"helm {HELM_VERSION} and kubeconform {KUBECONFORM_VERSION}"
                    build.compile_module(MODULE, TARGETS, STAMPS, draft, say, what)
    return Tools(built / "helm", built / "kubeconform")


def runs(program: Path, name: str) -> bool:
    """Whether `program` runs here and is a `name` of the version that the tests are written for."""
    arguments, beginning = PROBES[name]
    try:
        answer = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.returncode == 0 and answer.stdout.startswith(beginning)
