"""Following what is published: a version newly in service is read, checked and adopted while requests go on.

The registry's journal is looked at (one `stat` in a thread) a few times a second, never by a request. What cannot be
used is refused, with the reason logged, counted and shown to the operator, and what serves stays. After an adoption
everybody's log is read anew in the background. Knows no HTTP and no Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import Signature, find_artifact, find_experiment, signature
from serve.background import guarded
from serve.config import Config
from serve.editions import Edition, Trial
from serve.errors import ConfigurationError
from serve.home import Home
from serve.metrics import Metrics
from serve.people import People
from serve.preferences import Preferences
from user_store.errors import StoreUnavailable
from user_store.latent_index import LatentIndex

logger = logging.getLogger("palate.publications")

RENEW_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Editor:
    """Makes editions of artifacts."""

    is_indexed: bool
    latents: Path  # folder of the indexes on disk
    store_name: str  # a snapshot of another store's people must never be taken over

    def edit(self, artifact: Artifact) -> Edition:
        """Prepare all that a request would otherwise wait for."""
        population = artifact.population
        preferences = Preferences(artifact)
        preferences.model.start()
        _ = artifact.space, artifact.readout
        index = LatentIndex(population.num_features, population.version) if self.is_indexed else None
        return Edition(preferences, index, self.latents / f"{population.version}-{self.store_name}.index")

    def forget_others(self, editions: Iterable[Edition]) -> None:
        """Remove this store's indexes of other versions: who is erased now would stay in them."""
        kept = {edition.snapshot for edition in editions}
        for path in self.latents.glob(f"*-{self.store_name}.index"):
            if path not in kept:
                path.unlink(missing_ok=True)


class Publications:
    """Brings what is published into service; one a process."""

    def __init__(
        self, people: People, editor: Editor, config: Config, home: Home, metrics: Metrics, seen: Signature
    ) -> None:
        """Take people, and the registry's signature from before their artifact was loaded."""
        self._people = people
        self._editor = editor
        self._config = config
        self._home = home
        self._metrics = metrics
        self._seen = seen
        self._renewing: asyncio.Task[None] | None = None
        self.has_changed = asyncio.Event()  # the indexes are to be built
        self._show()

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._config.personalization.publication_check_s)
                await self.check()
        finally:
            if self._renewing is not None:
                self._renewing.cancel()
                await asyncio.gather(self._renewing, return_exceptions=True)

    async def check(self) -> None:
        """Adopt what serves according to the registry, if that changed since the last look."""
        found = await asyncio.to_thread(signature, self._home)
        if found == self._seen:
            return
        self._seen = found
        try:
            artifact = await asyncio.to_thread(find_artifact, self._config, self._home)
            if artifact is None:
                raise ConfigurationError("Nothing is published for this model any more.")
            has_changed = await self._adopt(artifact)
            has_changed = await self._attempt() or has_changed
            if has_changed:
                self._renew_soon()
        except ConfigurationError as error:
            self._refuse(error.message)

    async def attempt(self) -> None:
        """Take part in the experiment that was running when the server started."""
        try:
            if await self._attempt():
                self._renew_soon()
        except ConfigurationError as error:
            self._refuse(error.message)

    async def _attempt(self) -> bool:
        """Begin or end an experiment as the registry says; tell whether anything changed."""
        found = await asyncio.to_thread(find_experiment, self._config, self._home)
        before = self._people.in_service.trial
        if (found and found[0]) == (before and before.experiment):
            return False
        trial: Trial | None = None
        if found is not None:
            experiment, artifact = found
            self._check_space(artifact)
            trial = Trial(experiment, await asyncio.to_thread(self._editor.edit, artifact))
        await self._people.attempt(trial)
        if before is not None:
            self._metrics.experiment.labels(before.experiment.name, before.experiment.candidate).set(0)
            logger.warning("experiment '%s' has ended", before.experiment.name)
        if trial is not None:
            self._metrics.begin_experiment(trial.experiment.name)
            self._metrics.experiment.labels(trial.experiment.name, trial.experiment.candidate).set(
                trial.experiment.share
            )
            logger.warning("experiment '%s' tries %s", trial.experiment.name, trial.experiment.candidate)
        return True

    def _check_space(self, artifact: Artifact) -> None:
        serving = self._people.artifact
        if artifact.feature_space.engine_id != serving.feature_space.engine_id:
            raise ConfigurationError(
                f"{artifact.version} reads and steers in {artifact.feature_space.engine_id}, and the engines in "
                f"{serving.feature_space.engine_id}: restart the server to use it."
            )

    async def _adopt(self, artifact: Artifact) -> bool:
        serving = self._people.in_service
        if artifact.version == serving.current.version:
            if serving.refusal:
                self._people.in_service = replace(serving, refusal="")
                self._show()
            return False
        self._check_space(artifact)
        edition = await asyncio.to_thread(self._editor.edit, artifact)
        self._metrics.artifact.labels(serving.current.version).set(0)
        await self._people.adopt(edition)
        self._show()
        logger.warning("%s serves now, after %s", artifact.version, serving.current.version)
        return True

    def _renew_soon(self) -> None:
        self.has_changed.set()
        if self._renewing is not None:
            self._renewing.cancel()
        self._renewing = asyncio.get_running_loop().create_task(guarded(self._renew))

    def _refuse(self, reason: str) -> None:
        self._people.in_service = replace(self._people.in_service, refusal=reason)
        self._metrics.artifact_refusals.inc()
        logger.error("a publication is refused, %s stays: %s", self._people.artifact.version, reason)

    def _show(self) -> None:
        self._metrics.artifact.labels(self._people.artifact.version).set(1)

    async def _renew(self) -> None:
        """Read everybody's log anew; whoever asks meanwhile is not waited for."""
        while True:
            try:
                num_people = await self._people.renew()
            except StoreUnavailable as error:
                logger.warning("people are read anew later: %s", type(error).__name__)
                await asyncio.sleep(RENEW_RETRY_S)
            else:
                logger.info("%d people were read anew with %s", num_people, self._people.artifact.version)
                return
