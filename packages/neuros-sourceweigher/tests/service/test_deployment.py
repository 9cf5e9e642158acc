"""The image, the chart and the manifests keep the promises of the service."""

import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra [service] is not installed")

import yaml

from neuros_sourceweigher.service import ServiceSettings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CHART = DEPLOY / "chart"


def render(name, values):
    """Replace the values of a template; blocks for what is off by default are left out.

    This covers what these templates use, so that they are parsed without helm.
    """
    text = (CHART / "templates" / name).read_text()
    text = re.sub(r"[ \t]*\{\{- (?:if|end|else|range)[^}]*\}\}\n?", "", text)
    labels = "{app: x}"
    text = re.sub(r'\{\{- include "[^"]*" \. \| nindent \d+ \}\}', labels, text)
    text = re.sub(r"\{\{- toYaml \.Values\.([\w.]+) \| nindent \d+ \}\}", "{}", text)
    text = text.replace("SOURCEWEIGHER_{{ $name }}", "SOURCEWEIGHER_X")

    def value(match):
        found = values
        for part in match[1].split("."):
            found = found[part]
        return str(found)

    text = re.sub(r"\{\{ \.Values\.([\w.]+)(?: \| (?:quote|default [\w.]+))? \}\}", value, text)
    text = text.replace("{{ .Release.Name }}", "x")
    return re.sub(r"\{\{[^}]*\}\}", "x", text)


@pytest.fixture(scope="module")
def values():
    return yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.fixture(scope="module")
def manifests():
    found = yaml.safe_load_all((DEPLOY / "manifests.yaml").read_text())
    return {document["kind"]: document for document in found}


def pod_of(deployment):
    return deployment["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", [p.name for p in sorted((CHART / "templates").glob("*.yaml"))])
def test_every_template_is_yaml_with_a_kind(name, values):
    document = yaml.safe_load(render(name, values))
    assert {"apiVersion", "kind", "metadata", "spec"} <= document.keys()
    text = (CHART / "templates" / name).read_text()
    assert len(re.findall(r"\{\{-? (?:if|range)", text)) == len(re.findall(r"\{\{- end \}\}", text))


def test_every_value_of_a_template_exists(values):
    for path in (CHART / "templates").glob("*.yaml"):
        for name in re.findall(r"\.Values\.([\w.]+)", path.read_text()):
            found = values
            for part in name.split("."):
                assert part in found, f"{path.name}: {name}"
                found = found[part]


def test_chart_and_manifests_describe_the_same_objects(manifests, values):
    kinds = set()
    for path in (CHART / "templates").glob("*.yaml"):
        kinds |= set(re.findall(r"^kind: (\w+)", path.read_text(), re.MULTILINE))
    assert kinds == {*manifests, "ServiceMonitor"}
    container = pod_of(manifests["Deployment"])["containers"][0]
    template = pod_of(yaml.safe_load(render("deployment.yaml", values)))
    for field in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle"):
        assert container[field] == template["containers"][0][field]
    assert container["resources"] == values["resources"]
    assert pod_of(manifests["Deployment"])["securityContext"] == template["securityContext"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    token = given.pop("SOURCEWEIGHER_TOKEN_FILE")
    assert given == {f"SOURCEWEIGHER_{k}": v for k, v in values["settings"].items()}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert token == f"{mounts['token']}/token"


def test_the_settings_are_ones_that_the_service_has(values):
    known = {f"{name.upper()}" for name in ServiceSettings.model_fields}
    assert values["settings"].keys() <= known
    given = {name.lower(): value for name, value in values["settings"].items()}
    assert ServiceSettings(**given).request_timeout_s == 30


def test_a_pod_has_time_to_finish(manifests, values):
    settings = {name: float(v) for name, v in values["settings"].items() if name.endswith("_S")}
    pod = pod_of(manifests["Deployment"])
    needed = settings["DRAIN_S"] + settings["REQUEST_TIMEOUT_S"] + 5 + values["preStopSeconds"]
    assert pod["terminationGracePeriodSeconds"] > needed
    assert values["terminationGracePeriodSeconds"] > needed
    assert pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] > 0


def test_a_pod_may_do_nothing_it_does_not_need(manifests):
    pod = pod_of(manifests["Deployment"])
    context = pod["containers"][0]["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert {"requests", "limits"} == pod["containers"][0]["resources"].keys()
    policy = manifests["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []


def test_probes_ask_the_routes_that_need_no_token(manifests):
    container = pod_of(manifests["Deployment"])["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["startupProbe"]["httpGet"]["path"] == "/readyz"


def test_selectors_find_the_pods(manifests):
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == manifests["Deployment"]["metadata"]["name"]
    (metric,) = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["resource"]["name"] == "cpu"


def test_the_image_starts_the_command_itself_and_not_as_root():
    lines = (DEPLOY / "Dockerfile").read_text()
    final = lines.split("FROM ")[-1]
    # Wheels that were installed for one Python do not load in another.
    assert "FROM python:3.11-slim-bookworm AS build" in lines
    assert final.startswith("gcr.io/distroless/python3-debian12\n")
    start = '"/usr/bin/python3", "-m", "neuros_sourceweigher", "serve"'
    assert f"ENTRYPOINT [{start}]" in final
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert 'CMD ["/usr/bin/python3", "-c"' in final.split("HEALTHCHECK")[1]
    assert "/healthz" in final
    assert "SOURCEWEIGHER_HOST=0.0.0.0" in final
    # A secret in an image is a secret of everybody who has the image.
    assert "TOKEN" not in lines
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", lines, re.MULTILINE)
    root = DEPLOY.parents[2]
    assert copied
    assert all((root / name).exists() for name in " ".join(copied).split())


def test_the_chart_has_the_version_of_the_package():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    assert chart["appVersion"] == re.search(r'^version = "(.*)"', project, re.MULTILINE)[1]
    image = (DEPLOY / "manifests.yaml").read_text()
    assert f'image: "sourceweigher:{chart["appVersion"]}"' in image
