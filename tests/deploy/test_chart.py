"""The chart: what Kubernetes and KubeRay would take, careful with secrets and rights, consistent in itself."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray._private.services import get_address

from serve.config import Config
from tests.deploy import chart
from tests.deploy.chart import CHART, PROFILES, Tree, containers, of_kind, pod_templates, refusal, rendered

KUBERNETES = "1.34"
FOREIGN_KINDS = {"RayService", "HTTPRoute", "ServiceMonitor", "PrometheusRule"}  # checked by themselves
RAY_SERVICE = json.loads((Path(__file__).parent / "schemas" / "rayservice-v1.json").read_text())
SECRET_NAME = re.compile("PASSWORD|TOKEN|SECRET|API_KEY|AUTH$")
PRODUCTION = CHART / "ci" / "production.yaml"
GPU = CHART / "ci" / "gpu.yaml"
DEVELOPMENT = CHART / "ci" / "development.yaml"
GATEWAY = CHART / "ci" / "gateway.yaml"

profiles = pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)


def closed(schema: Any) -> Any:
    """Refuse unknown fields too, which a cluster would drop in silence."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    is_open = "additionalProperties" in inner or "x-kubernetes-preserve-unknown-fields" in inner
    if inner.get("type") == "object" and isinstance(inner.get("properties"), dict) and not is_open:
        inner["additionalProperties"] = False
    if inner.get("x-kubernetes-int-or-string"):
        inner.pop("anyOf", None)
    return inner


@profiles
def test_helm_finds_nothing_to_complain_about(profile: Path) -> None:
    done = chart.helm("lint", "--strict", CHART, "-f", profile)
    assert done.returncode == 0, done.stdout + done.stderr


@profiles
def test_kubernetes_would_take_it(profile: Path) -> None:
    documents = rendered(profile)
    for document in documents:
        if document["kind"] not in FOREIGN_KINDS:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    for name, template in pod_templates(documents):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **template["metadata"]}}
        kubernetes_validate.validate({**pod, "spec": template["spec"]}, KUBERNETES, strict=True), name


@profiles
def test_kuberay_would_take_it(profile: Path) -> None:
    (service,) = of_kind(rendered(profile), "RayService")
    jsonschema.Draft202012Validator(closed(RAY_SERVICE)).validate(service)
    assert service["apiVersion"] == "ray.io/v1"
    names = [container["name"] for _, template in pod_templates([service]) for container in containers(template)]
    assert "ray-head" in names


def test_the_schema_of_kuberay_is_not_blind() -> None:
    (service,) = of_kind(rendered(GPU), "RayService")
    wrong = json.loads(json.dumps(service))
    wrong["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParam"):
        jsonschema.Draft202012Validator(closed(RAY_SERVICE)).validate(wrong)


@profiles
def test_palate_would_take_its_configuration(profile: Path) -> None:
    (service,) = of_kind(rendered(profile), "RayService")
    tree = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = tree["applications"]
    Config.model_validate(application["args"])
    assert application["import_path"] == "serve.app:build"
    ports = service["spec"]["serveService"]["spec"]["ports"]
    assert {port["targetPort"] for port in ports} == {tree["http_options"]["port"]}


@profiles
def test_secrets_come_by_reference(profile: Path) -> None:
    documents = rendered(profile)
    assert not of_kind(documents, "Secret")
    num_references = 0
    for name, template in pod_templates(documents):
        for container in containers(template):
            for variable in container.get("env", []):
                if SECRET_NAME.search(variable["name"]):
                    assert "value" not in variable, (name, variable)
                    num_references += "secretKeyRef" in variable["valueFrom"]
    assert num_references or profile == DEVELOPMENT


@profiles
def test_pods_have_no_more_rights_than_they_need(profile: Path) -> None:
    for name, template in pod_templates(rendered(profile)):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        needs_token = name.endswith("head") and "enableInTreeAutoscaling" in json.dumps(rendered(profile))
        assert spec["automountServiceAccountToken"] is needs_token, name
        for container in containers(template):
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"], (name, container["name"])
            assert not rights["allowPrivilegeEscalation"]
            assert rights["capabilities"] == {"drop": ["ALL"]}


@profiles
def test_containers_have_limits_and_probes(profile: Path) -> None:
    for name, template in pod_templates(rendered(profile)):
        for container in containers(template):
            assert set(container["resources"]["requests"]) >= {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
        is_serving = name.startswith(("RayService", "StatefulSet"))
        for container in template["spec"]["containers"] if is_serving else []:
            assert {"livenessProbe", "readinessProbe"} <= set(container), (name, container["name"])
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                check = container.get(probe, {})
                ports = {port["name"] for port in container.get("ports", [])}
                assert check.get("httpGet", {}).get("port") in {None, *ports}, (name, probe)
            if container["name"].startswith("ray-"):
                startup = container["startupProbe"]
                assert startup["failureThreshold"] * startup["periodSeconds"] >= 600
                assert "startupProbe" in container


@profiles
def test_what_containers_mount_exists(profile: Path) -> None:
    for name, template in pod_templates(rendered(profile)):
        claims = {"data"} if name.startswith("StatefulSet") else set()
        volumes = {volume["name"] for volume in template["spec"].get("volumes", [])} | claims
        for container in containers(template):
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, name
            assert len(mounts) == len(set(mounts)), name


def selectors(document: Tree) -> Iterator[dict[str, str]]:
    spec = document.get("spec", {})
    match document["kind"]:
        case "Service":
            # KubeRay adds this one to the pods it makes.
            yield {key: value for key, value in spec["selector"].items() if not key.startswith("ray.io/")}
        case "PodDisruptionBudget" | "StatefulSet":
            yield spec["selector"]["matchLabels"]
        case "NetworkPolicy":
            yield spec["podSelector"]["matchLabels"]
            for rule in (*spec.get("ingress", []), *spec.get("egress", [])):
                for peer in (*rule.get("from", []), *rule.get("to", [])):
                    labels = peer.get("podSelector", {}).get("matchLabels", {})
                    if "namespaceSelector" not in peer:
                        yield labels


@profiles
def test_selectors_select(profile: Path) -> None:
    documents = rendered(profile)
    pods = [template["metadata"]["labels"] for _, template in pod_templates(documents)]
    num_selectors = 0
    for document in documents:
        for selector in selectors(document):
            num_selectors += 1
            assert any(selector.items() <= labels.items() for labels in pods), (document["kind"], selector)
    assert num_selectors >= 4


@profiles
def test_references_lead_somewhere(profile: Path) -> None:
    documents = rendered(profile)
    (service,) = of_kind(documents, "RayService")
    front = service["spec"]["serveService"]
    (port,) = front["spec"]["ports"]
    for ingress in of_kind(documents, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            paths = [(path["path"], path["pathType"]) for path in rule["http"]["paths"]]
            assert ("/", "Exact") in paths  # a prefix would pass on the metrics too
            assert not [path for path, _ in paths if path.startswith("/metrics")]
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                assert (backend["name"], backend["port"]["number"]) == (front["metadata"]["name"], port["port"])
    for route in of_kind(documents, "HTTPRoute"):
        (backend,) = route["spec"]["rules"][0]["backendRefs"]
        assert backend == {"name": front["metadata"]["name"], "port": port["port"]}
    accounts = {account["metadata"]["name"] for account in of_kind(documents, "ServiceAccount")}
    claims = {claim["metadata"]["name"] for claim in of_kind(documents, "PersistentVolumeClaim")}
    for name, template in pod_templates(documents):
        account = template["spec"].get("serviceAccountName")
        assert account in {None, *accounts}, name
        for volume in template["spec"].get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim in {None, "models", *claims}, name


def test_the_store_is_reached_with_its_own_secret() -> None:
    for profile, url in ((GPU, "redis://palate-redis:6379/0"), (GATEWAY, "rediss://palate-redis:6379/0?ssl_ca_certs=")):
        documents = rendered(profile)
        (service,) = [item for item in of_kind(documents, "Service") if item["metadata"]["name"] == "palate-redis"]
        assert service["spec"]["ports"][0]["port"] == 6379
        for _, template in pod_templates(of_kind(documents, "RayService")):
            env = {item["name"]: item for item in template["spec"]["containers"][0]["env"]}
            assert env["PALATE_STORE_URL"]["value"].startswith(url)
            secret = env["PALATE_STORE_PASSWORD"]["valueFrom"]["secretKeyRef"]
            assert secret == {"name": "palate-redis", "key": "password"}
    (service,) = of_kind(rendered(PRODUCTION), "RayService")
    options = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    assert options["redisUsername"]["valueFrom"]["secretKeyRef"]["key"] == "username"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("rediss://redis.data.svc:6380/0", ("redis.data.svc", "6380", True)),
        ("redis://redis.data.svc:6380/3?health_check_interval=5", ("redis.data.svc", "6380", False)),
        ("redis://redis.data.svc/", ("redis.data.svc", "6379", False)),
        ("redis://redis.data.svc:6380", ("redis.data.svc", "6380", False)),
    ],
)
def test_ray_takes_the_external_store_s_address(url: str, address: tuple[str, str, bool]) -> None:
    documents = rendered(PRODUCTION, f'store.external.url="{url}"')
    (service,) = of_kind(documents, "RayService")
    told = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"]
    assert get_address(told) == address
    pods = [template["spec"]["containers"][0] for _, template in pod_templates([service])]
    env = {item["name"]: item for container in pods for item in container["env"]}
    assert env["PALATE_STORE_URL"]["value"].startswith(url)  # the store's own database stays


def test_a_single_pod_keeps_people_on_a_claim() -> None:
    documents = rendered(DEVELOPMENT)
    (service,) = of_kind(documents, "RayService")
    assert "workerGroupSpecs" not in service["spec"]["rayClusterConfig"]
    assert "gcsFaultToleranceOptions" not in service["spec"]["rayClusterConfig"]
    ((_, template),) = pod_templates([service])
    home = next(volume for volume in template["spec"]["volumes"] if volume["name"] == "home")
    assert home["persistentVolumeClaim"]["claimName"] == "palate-home"
    assert not of_kind(documents, "StatefulSet")


def test_gpus_are_asked_of_kubernetes_and_told_to_ray() -> None:
    (service,) = of_kind(rendered(PRODUCTION), "RayService")
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    for group, gpus in zip(groups, ("4", None), strict=True):
        container = group["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
        assert group["rayStartParams"]["num-gpus"] == (gpus or "0")


def test_monitoring_carries_the_files_of_the_chart() -> None:
    documents = rendered(PRODUCTION)
    (rules,) = of_kind(documents, "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((CHART / "rules" / "palate.yaml").read_text())
    maps = [item for item in of_kind(documents, "ConfigMap") if "dashboard" in item["metadata"]["name"]]
    files = sorted((CHART / "dashboards").glob("*.json"))
    assert len(files) == 4
    assert {name: json.loads(text) for item in maps for name, text in item["data"].items()} == {
        file.name: json.loads(file.read_text()) for file in files
    }
    (monitor,) = of_kind(documents, "ServiceMonitor")
    (service,) = [item for item in of_kind(documents, "Service") if item["metadata"]["name"] == "palate-metrics"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


@pytest.mark.parametrize(
    ("fit", "release", "calls", "succeeds"),
    [
        (0, 0, ["fit", "evaluate", "artifacts"], True),
        (0, 3, ["fit", "evaluate"], True),  # not found better: nothing is published, and nothing is wrong
        (0, 1, ["fit", "evaluate"], False),
        (1, 0, ["fit"], False),
    ],
)
def test_a_fit_is_published_only_if_it_was_found_better(
    tmp_path: Path, fit: int, release: int, calls: list[str], *, succeeds: bool
) -> None:
    (job,) = of_kind(rendered(PRODUCTION), "CronJob")
    container = containers(job["spec"]["jobTemplate"]["spec"]["template"])[0]
    stub = tmp_path / "palate"
    stub.write_text(
        f"""#!/bin/sh
echo "$*" >> {tmp_path}/calls
case "$1" in
  fit) echo 'fit-1a2b: on 40 held-out people'; echo /var/lib/palate/artifacts/fit-1a2b; exit {fit};;
  evaluate) exit {release};;
esac
"""
    )
    stub.chmod(0o755)
    commands = container["args"][0].replace("/tmp/", f"{tmp_path}/")  # noqa: S108 - the pod's own
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([*container["command"], commands], env=environment, check=False, capture_output=True)
    assert (done.returncode == 0) == succeeds, done.stderr
    expected = {"fit": "fit --from in-service", "evaluate": "evaluate release fit-1a2b"}
    expected["artifacts"] = "artifacts publish fit-1a2b"
    assert (tmp_path / "calls").read_text().splitlines() == [expected[call] for call in calls]


def test_the_gateway_s_secret_goes_by_reference() -> None:
    (service,) = of_kind(rendered(PRODUCTION), "RayService")
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    entries = [entry for container in containers(head) for entry in container.get("env", [])]
    (entry,) = [entry for entry in entries if entry["name"] == "PALATE_GATEWAY_SECRET"]
    assert entry["valueFrom"] == {"secretKeyRef": {"name": "palate-gateway", "key": "gateway-secret"}}


def test_nothing_is_made_that_was_switched_off() -> None:
    kinds = {document["kind"] for document in rendered(GPU)}
    assert not kinds & {"Ingress", "HTTPRoute", "ServiceMonitor", "PrometheusRule", "CronJob", "PersistentVolumeClaim"}
    quiet = rendered(
        GPU, "networkPolicy.enabled=false", "podDisruptionBudget.enabled=false", "tests.enabled=false",
        "serviceAccount.create=false",
    )  # fmt: skip
    assert {document["kind"] for document in quiet} == {"RayService", "StatefulSet", "Service", "ConfigMap"}


MISTAKES = {
    "a password for Redis": ('redis.auth.password="hunter2"', "password"),
    "a password in the store's address": ('store.external.url="redis://ann:hunter2@db:6379"', "/store/external/url"),
    "a password in the address's query": (
        'store.external.url="redis+sentinel://db:1/m/0?sentinel_password=x"',
        "/store/external/url",
    ),
    "the store's address in the configuration": ('config.store={"url":"redis://:x@db"}', "url"),
    "an API key instead of a secret's name": ('apiKey.value="pk-0123"', "value"),
    "the gateway's secret itself": ('gateway.value="between us"', "value"),
    "a limit of nothing": ('config.limits={"key":{"requests_per_minute":0}}', "requests_per_minute"),
    "a secret among the environment": ('extraEnv=[{"name":"AWS_SECRET_ACCESS_KEY","value":"x"}]', "/extraEnv/0"),
    "credentials in the object store's address": ('artifacts.objectStore.url="https://a:b@store/x"', "objectStore/url"),
    "Redis without its password's secret": ('redis.auth.existingSecret=""', "/redis/auth/existingSecret"),
    "a misspelt value": ("workerGroup=[]", "workerGroup"),
    "a misspelt key of the configuration": ('config.engine={"num_gpu":1}', "num_gpu"),
    "a configuration out of bounds": ('config.engine={"max_num_seqs":0}', "max_num_seqs"),
    "a port of its own": ('config.http={"port":80}', "port"),
    "a root user": ("podSecurityContext.runAsNonRoot=false", "runAsNonRoot"),
    "user 0": ("podSecurityContext.runAsUser=0", "runAsUser"),
    "containers without limits": ("head.resources.limits=null", "/head/resources"),
    "memory in no known unit": ('redis.resources.limits.memory="4GB"', "memory"),
    "a store that is none": ('store.type="postgres"', "/store/type"),
    "an external store without an address": ('store.type="external"', "/store/external/url"),
    "an upgrade that is none": ('ray.upgrade.type="Rolling"', "/ray/upgrade/type"),
    "an Ingress without hosts": ("ingress.enabled=true", "/ingress/hosts"),
    "a digest cut short": ('image.digest="sha256:abc"', "/image/digest"),
    "a service port out of range": ("service.port=80000", "/service/port"),
    "lazy durability": ('redis.appendfsync="no"', "/redis/appendfsync"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_schema_refuses(name: str) -> None:
    setting, where = MISTAKES[name]
    said = refusal(GPU, setting)
    assert "meet the specifications of the schema" in said
    assert where in said


CONTRADICTIONS = {
    "SQLite for several pods": ('store.type="sqlite"', "sqlite is one file on one pod"),
    "nobody to serve": ("workerGroups=[]", "head.numCpus"),
    "an engine that fits no group": ("config.engine.num_gpus=8", "no worker group"),
    "GPUs that nobody uses": ("config.engine.num_gpus=0", "would run on their CPUs"),
    "incremental upgrades without a gateway": (
        'ray.upgrade.type="NewClusterWithIncrementalUpgrade"',
        "gatewayClassName",
    ),
    "a fit that cannot publish": ("fit.enabled=true", "artifacts.source"),
    "no time to drain": ("terminationGracePeriodSeconds=10", "drain_timeout_s"),
    "a home that is not needed": ("head.persistence.enabled=true", "head.persistence"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_the_chart_refuses(name: str) -> None:
    setting, reason = CONTRADICTIONS[name]
    assert reason in refusal(GPU, setting)


def test_a_fit_of_another_pod_s_sqlite_is_refused() -> None:
    said = refusal(DEVELOPMENT, "fit.enabled=true", 'artifacts.source="volume"')
    assert "cannot read the head pod's SQLite file" in said


def test_what_is_generated_is_current() -> None:
    renew = "run: python -m tests.deploy.chart"
    assert chart.SCHEMA.read_text() == chart.renewed_schema(), renew
    assert chart.README.read_text() == chart.renewed_readme(), renew
