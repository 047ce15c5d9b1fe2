"""Which artifact serves which model: versions below `PALATE_HOME/artifacts`, and a journal of publications.

`in-service.json` holds for each model the versions published so far, newest last, "" standing for the shipped default;
it is replaced in one rename, so a reader sees one or the other. `history.jsonl` keeps every publication and rollback,
with what spoke against it. Knows no engines or servers.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve.artifacts.adapters import servable
from serve.artifacts.artifact import Artifact
from serve.artifacts.experiments import EXPERIMENTS, Experiment, read_experiments, write_experiments
from serve.artifacts.rulings import fingerprint, read_ruling
from serve.artifacts.scripted import scripted_artifact
from serve.artifacts.storage import MANIFEST, Manifest, load, read_manifest, sync
from serve.config import Config
from serve.errors import ConfigurationError
from serve.home import Home

logger = logging.getLogger("palate.artifacts")

JOURNAL = "in-service.json"
HISTORY = "history.jsonl"
STARTED, STOPPED = "start experiment", "stop experiment"
SHIPPED = Path(__file__).parent / "default"
MAX_REMEMBERED = 100  # publications a model
Signature = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One version that is there."""

    manifest: Manifest
    folder: Path
    is_in_service: bool
    is_shipped: bool


def load_default(model_name: str, shipped: Path = SHIPPED) -> Artifact | None:
    """Load the artifact that ships for a model; None where there is none. Raises ConfigurationError if damaged."""
    folder = _shipped_folder(model_name, shipped)
    return load(folder) if folder is not None else None


def load_in_service(home: Home, model_name: str, shipped: Path = SHIPPED) -> Artifact | None:
    """Load what serves a model: the version published last, else the shipped one, else None.

    Raises:
        ConfigurationError: the published version is damaged or gone; the message says how to go back.
    """
    version = Registry(home, shipped).in_service(model_name)
    if version is None:
        return load_default(model_name, shipped)
    try:
        return load(home.artifacts / version)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error.message} `palate artifacts rollback` returns to the one before.") from error


def find_experiment(config: Config, home: Home) -> tuple[Experiment, Artifact] | None:
    """Find the experiment on the configured model, with its candidate. Raises ConfigurationError if that is damaged."""
    if config.personalization.artifact is not None:
        return None
    name = config.model.name if config.engine.kind == "scripted" else config.model.base_name
    registry = Registry(home)
    experiment = registry.experiment(name)
    if experiment is None:
        return None
    return experiment, _for_engines(load(registry.entry(experiment.candidate).folder), config)


def find_artifact(config: Config, home: Home) -> Artifact | None:
    """Find what the configuration says serves: a folder, the scripted engine's own, or the one in service.

    Adapters that the configured engines do not take are left out.

    Raises:
        ConfigurationError: it is damaged, or belongs to another model.
    """
    artifact = _configured(config, home)
    return None if artifact is None else _for_engines(artifact, config)


def _for_engines(artifact: Artifact, config: Config) -> Artifact:
    return servable(artifact, config.engine.max_loras, config.engine.max_lora_rank)


def _configured(config: Config, home: Home) -> Artifact | None:
    personalization, model_name = config.personalization, config.model.base_name
    if not personalization.enabled:
        return None
    if config.engine.kind == "scripted":
        return _scripted(config.model.name, home)
    if personalization.artifact is None:
        return load_in_service(home, model_name)
    artifact = load(personalization.artifact)
    if artifact.feature_space.model != model_name:
        raise ConfigurationError(
            f"The artifact in {personalization.artifact} was made for '{artifact.feature_space.model}', "
            f"not for '{model_name}'."
        )
    return artifact


def usable_artifact(config: Config, home: Home) -> tuple[Artifact | None, bool]:
    """Find what serves as `find_artifact` does, for a replica that must come up again whatever happened meanwhile.

    Returns:
        The artifact or None, and whether there is one that cannot be used; why is logged.
    """
    try:
        return find_artifact(config, home), False
    except ConfigurationError as error:
        logger.critical("answers are the base model's: %s", error.message)
        return None, True


@dataclass(frozen=True)
class Registry:
    """Versions on disk and what is in service."""

    home: Home
    shipped: Path = SHIPPED

    def entries(self) -> list[Entry]:
        """List every readable version, oldest first, the shipped ones before all."""
        found = []
        for folder, is_shipped in self._folders():
            manifest = read_manifest(folder)
            version = self.in_service(manifest.model)
            is_first = version is None and is_shipped
            found.append(Entry(manifest, folder, version == manifest.version or is_first, is_shipped))
        return sorted(found, key=lambda entry: (not entry.is_shipped, entry.manifest.created, entry.manifest.version))

    def entry(self, version: str) -> Entry:
        """Find a version; `in-service` is the only one in service. Raises ConfigurationError if there is none."""
        entries = self.entries()
        named = [
            one for one in entries if one.manifest.version == version or (version == "in-service" and one.is_in_service)
        ]
        if len(named) != 1:
            known = ", ".join(one.manifest.version for one in entries) or "none"
            raise ConfigurationError(f"There is no one artifact '{version}'; there are: {known}.")
        return named[0]

    def serving(self, model_name: str) -> Entry | None:
        """Find what serves a model, the shipped one included; None if nothing does."""
        return next((one for one in self.entries() if one.is_in_service and one.manifest.model == model_name), None)

    def in_service(self, model_name: str) -> str | None:
        """Give the version published last for a model; None while the shipped one serves."""
        versions = self._journal().get(model_name, [])
        return (versions[-1] or None) if versions else None

    def publish(self, version: str, *, is_forced: bool = False) -> Manifest:
        """Put a version into service, after loading it from where servers will; written down, forced or not.

        Raises:
            ConfigurationError: it is damaged or in a folder of another name; or, unless forced, fitted in another
                feature space than the one in service, or was not ruled to be better than that. Where nothing serves,
                and for the shipped one, no ruling is needed.
        """
        entry = self._usable(version)
        manifest, version = entry.manifest, entry.manifest.version
        serving = self.serving(manifest.model)
        objection = self._objection(entry, serving)
        if objection and not is_forced:
            raise ConfigurationError(f"{objection} Use --force if that is meant.")
        self._end_experiment(manifest.model)
        self._append(manifest.model, "" if entry.is_shipped else version)
        before = None if serving is None else serving.manifest.version
        self._note(manifest.model, "publish", version, before, is_forced=is_forced, objection=objection)
        return manifest

    def history(self) -> list[dict[str, Any]]:
        """List publications and rollbacks, oldest first."""
        path = self.home.artifacts / HISTORY
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def experiment(self, model_name: str) -> Experiment | None:
        """Return the running experiment."""
        return read_experiments(self.home.artifacts).get(model_name)

    def start_experiment(self, name: str, version: str, share: float, now: float) -> Experiment:
        """Try a version on a share of people, after loading it from where servers will.

        Raises:
            ConfigurationError: it is damaged, in a folder of another name, of another feature space, or the one in
                service; nothing serves; or another experiment is running.
        """
        entry = self._usable(version)
        model = entry.manifest.model
        serving, running = self.serving(model), self.experiment(model)
        if serving is None or serving.manifest.version == version:
            raise ConfigurationError(f"{version} can only be tried against another version that serves {model}.")
        if running is not None:
            raise ConfigurationError(f"Experiment '{running.name}' is running; stop it first.")
        if serving.manifest.feature_space != entry.manifest.feature_space:
            raise ConfigurationError(f"{version} reads another feature space than {serving.manifest.version}.")
        if any(row["version"] == name for row in self.history() if row["action"] == STARTED):
            raise ConfigurationError(f"There was an experiment '{name}'; another name draws other people.")
        experiment = Experiment(name, model, version, serving.manifest.version, share, now)
        with self._locked():
            write_experiments(self.home.artifacts, read_experiments(self.home.artifacts) | {model: experiment})
        self._note(model, STARTED, name, version, is_forced=False, objection="")
        return experiment

    def stop_experiment(self, model_name: str) -> Experiment:
        """Let what is in service serve everybody again. Raises ConfigurationError if no experiment is running."""
        found = self._end_experiment(model_name)
        if found is None:
            raise ConfigurationError(f"No experiment is running for {model_name}.")
        return found

    def _usable(self, version: str) -> Entry:
        """Find a version that servers can load. Raises ConfigurationError for any other."""
        entry = self.entry(version)
        named = entry.manifest.version
        if not entry.is_shipped and entry.folder.name != named:  # servers look for it by its version
            raise ConfigurationError(f"{entry.folder} holds version {named}: rename the folder to that.")
        load(entry.folder)
        return entry

    def _end_experiment(self, model_name: str) -> Experiment | None:
        running = read_experiments(self.home.artifacts)
        found = running.pop(model_name, None)
        if found is not None:
            with self._locked():
                write_experiments(self.home.artifacts, running)
            self._note(model_name, STOPPED, found.name, found.candidate, is_forced=False, objection="")
        return found

    def _objection(self, entry: Entry, serving: Entry | None) -> str:
        """Say why a version should not replace the one in service; nothing if it may."""
        running = self.experiment(entry.manifest.model)
        if running is not None:
            return f"Experiment '{running.name}' is running and would end: `palate experiments stop` does that."
        if serving is None or entry.is_shipped:
            return ""
        version, before = entry.manifest.version, serving.manifest.version
        if entry.manifest.feature_space != serving.manifest.feature_space:
            return (
                f"{version} was fitted in feature space {entry.manifest.feature_space}, not in "
                f"{serving.manifest.feature_space} as {before}, which serves: engines must restart, and feedback be "
                "read anew."
            )
        if version == before:
            return ""
        ruling = read_ruling(self.home.artifacts, version)
        if ruling is None or ruling.against != before or ruling.fingerprint != fingerprint(entry.folder):
            command = f"palate evaluate release {version}"
            return f"{version} was not compared with {before}, which serves: `{command}` does that."
        return "" if ruling.is_passed else f"{version} should not replace {before}: {'; '.join(ruling.reasons)}."

    def rollback(self, model_name: str) -> str:
        """Return to what served before the last publication; give its version, or `` for the shipped one.

        Raises:
            ConfigurationError: nothing was published, or the one before is damaged.
        """
        with self._locked():
            journal = self._journal()
            versions = journal.get(model_name, [])
            if not versions:
                raise ConfigurationError(f"Nothing was published for {model_name}; the shipped artifact serves.")
            before = versions[-2] if len(versions) > 1 else ""
            if before:
                load(self.home.artifacts / before)
            journal[model_name] = versions[:-1]
            self._write(journal)
        self._end_experiment(model_name)
        self._note(model_name, "rollback", before, versions[-1], is_forced=False, objection="")
        return before

    def _folders(self) -> Iterator[tuple[Path, bool]]:
        for parent, is_shipped in ((self.shipped, True), (self.home.artifacts, False)):
            if parent.is_dir():
                for folder in sorted(parent.iterdir()):
                    if not folder.name.startswith(".") and (folder / MANIFEST).is_file():
                        yield folder, is_shipped

    def _journal(self) -> dict[str, list[str]]:
        path = self.home.artifacts / JOURNAL
        try:
            journal: Any = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path} cannot be read: {error}") from error
        return dict(journal)

    def _append(self, model_name: str, version: str) -> None:
        with self._locked():
            journal = self._journal()
            journal[model_name] = [*journal.get(model_name, []), version][-MAX_REMEMBERED:]
            self._write(journal)

    def _note(
        self, model_name: str, action: str, version: str, before: str | None, *, is_forced: bool, objection: str
    ) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row: dict[str, object] = {"at": now, "model": model_name, "action": action, "version": version}
        row |= {"before": before, "is_forced": is_forced, "objection": objection}
        with self._locked(), (self.home.artifacts / HISTORY).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _write(self, journal: dict[str, list[str]]) -> None:
        path = self.home.artifacts / JOURNAL
        aside = path.with_name(f".{JOURNAL}-{os.getpid()}")
        aside.write_text(json.dumps(journal, indent=1) + "\n")
        sync(aside)
        aside.rename(path)
        sync(path.parent)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.home.create().artifacts.mkdir(exist_ok=True)
        with (self.home.artifacts / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def signature(home: Home) -> Signature:
    """Return what changes whenever something is published, rolled back or tried; a `stat` a file."""
    found: list[int] = []
    for name in (JOURNAL, EXPERIMENTS):
        try:
            status = (home.artifacts / name).stat()
        except OSError:
            found += [0, 0, 0]
        else:
            found += [status.st_ino, status.st_mtime_ns, status.st_size]
    return tuple(found)


def _scripted(model_name: str, home: Home) -> Artifact:
    """Load what was published for the scripted engine; its own artifact where that is nothing or a real model's."""
    own = scripted_artifact(model_name)
    version = Registry(home).in_service(model_name)
    if version is None or read_manifest(home.artifacts / version).feature_space != own.feature_space.id:
        return own
    return load(home.artifacts / version)


def _shipped_folder(model_name: str, shipped: Path) -> Path | None:
    folders = [path for path in sorted(shipped.glob("*")) if (path / MANIFEST).is_file()] if shipped.is_dir() else []
    return next((path for path in folders if read_manifest(path).model == model_name), None)
