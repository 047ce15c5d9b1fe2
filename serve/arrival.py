"""A server that started without a usable artifact waits for one, and knows people from then on.

The registry is looked at as often as by `publications`, which takes over afterwards. Engines that measure another
feature space, or none, cannot be taught to while they run: the artifact is refused, with the reason logged and counted,
until they were restarted. Knows no Ray.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace

from fastapi import FastAPI

from serve.api.context import ApiContext
from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import Signature, signature, usable_artifact
from serve.config import Config, Secrets
from serve.errors import EngineUnavailable
from serve.home import Home
from serve.memory import DAMAGED, Memory, open_memory
from serve.metrics import Metrics
from serve.service import Service

logger = logging.getLogger("palate.arrival")


@dataclass(frozen=True)
class Arrival:
    """What waits for the first artifact; everything that memory will need."""

    config: Config
    secrets: Secrets
    home: Home
    service: Service
    metrics: Metrics

    @property
    def is_expected(self) -> bool:
        """Whether anything published would serve."""
        return self.config.personalization.enabled and self.config.personalization.artifact is None

    async def memory(self) -> Memory:
        """Return the memory opened with the first artifact that can be used; until then, wait."""
        seen: Signature | None = None
        artifact: Artifact | None = None
        said = ""
        while True:
            found = await asyncio.to_thread(signature, self.home)
            if found != seen:
                seen = found
                artifact, _ = await asyncio.to_thread(usable_artifact, self.config, self.home)
            objection = "" if artifact is None else await self._objection(artifact)
            if artifact is not None and objection is None:
                memory = await open_memory(self.config, self.secrets, self.home, self.service, self.metrics)
                if memory is not None:
                    self.metrics.artifact.labels(DAMAGED).set(0)
                    logger.warning("%s serves now, the first one", memory.people.artifact.version)
                    return memory
            if objection and objection != said:
                said = objection
                self.metrics.artifact_refusals.inc()
                logger.error("%s", objection)
            await asyncio.sleep(self.config.personalization.publication_check_s)

    async def _objection(self, artifact: Artifact) -> str | None:
        """Say why the artifact cannot serve: None if it can, nothing while no engine is up to tell."""
        try:
            measured = (await self.service.model()).feature_space
        except EngineUnavailable:
            return ""
        if measured == artifact.feature_space.id:
            return None
        return (
            f"{artifact.version} cannot serve yet: it reads features of {artifact.feature_space.id}, and the engines "
            f"measure {measured or 'none'}. Restart the server."
        )


def introduce(application: FastAPI, memory: Memory) -> ApiContext:
    """Let requests from now on know people; those under way end as they began. Returns the new context."""
    before: ApiContext = application.state.context
    context = replace(before, people=memory.people, desk=memory.desk)
    application.state.context = context
    return context
