"""Where helm and kubeconform come from, told with programs of two lines."""

from pathlib import Path

import pytest

from pveha.devkube import build, cache, tools

HELM_3 = "#!/bin/sh\necho v3.99.0\n"
HELM_4 = "#!/bin/sh\necho v4.1.0\n"
BROKEN = "#!/bin/sh\nexit 1\n"
KUBECONFORM = "#!/bin/sh\necho v0.7.0\n"


def programs(folder: Path, **scripts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in scripts.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where something was compiled."""
    done: list[Path] = []

    def compile_module(
        module: Path, targets: object, stamps: object, into: Path, say: cache.Say, what: str
    ) -> None:
        assert (module / "go.sum").exists()
        assert tools.HELM_VERSION in what
        programs(into, helm=HELM_3, kubeconform=KUBECONFORM)
        done.append(into)

    monkeypatch.setattr(build, "compile_module", compile_module)
    return done


@pytest.mark.parametrize("variable", ["KUBEBUILDER_ASSETS", "PATH"])
def test_those_at_hand_are_used(tmp_path: Path, builds: list[Path], variable: str) -> None:
    folder = programs(tmp_path / "own", helm=HELM_3, kubeconform=KUBECONFORM)
    found = tools.ensure(print, {variable: f"{folder}:/bin", "XDG_CACHE_HOME": str(tmp_path)})
    assert found == tools.Tools(folder / "helm", folder / "kubeconform")
    assert builds == []


@pytest.mark.parametrize(
    "scripts",
    [
        {"helm": HELM_4, "kubeconform": KUBECONFORM},
        {"helm": BROKEN, "kubeconform": KUBECONFORM},
        {"helm": HELM_3},
        {},
    ],
    ids=["another major version", "broken", "one missing", "none"],
)
def test_else_they_are_built_once(tmp_path: Path, builds: list[Path], scripts: dict[str, str]) -> None:
    folder = programs(tmp_path / "own", **scripts)
    environ = {"PATH": f"{folder}:/bin", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    found = tools.ensure(print, environ)
    assert tools.ensure(print, environ) == found
    assert found.helm.read_text() == HELM_3
    assert found.helm.is_relative_to(tmp_path / "cache" / "pveha" / "devkube")
    assert len(builds) == 1


def test_the_module_has_the_versions_that_are_named() -> None:
    text = (tools.MODULE / "go.mod").read_text()
    assert f"helm.sh/helm/v3 v{tools.HELM_VERSION}" in text
    assert f"github.com/yannh/kubeconform v{tools.KUBECONFORM_VERSION}" in text
