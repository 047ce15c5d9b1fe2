"""What is in service: which artifact reads whom, and who is still read with the one before.

An edition is an artifact with its reading of feedback and its index of tastes. `InService` never changes: a
publication replaces it whole, and whoever serves a request takes it once. A posterior belongs to the edition that made
it; until the one meant for a person has read their log anew, they are read with the old pair. Knows no files or stores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from serve.artifacts.artifact import Artifact
from serve.artifacts.experiments import CANDIDATE, Experiment
from serve.preferences import Preferences
from user_store.latent_index import LatentIndex
from user_store.types import UserKey, UserState

MAX_RETIRED = 2  # editions that people are still read with while their logs are read anew


@dataclass(frozen=True, eq=False, slots=True)
class Edition:
    """An artifact and what goes with it."""

    preferences: Preferences
    index: LatentIndex | None = None
    snapshot: Path | None = None  # the index on disk

    @property
    def artifact(self) -> Artifact:
        """The artifact."""
        return self.preferences.artifact

    @property
    def version(self) -> str:
        """The artifact's version, which posteriors name as their population."""
        return self.artifact.version


@dataclass(frozen=True, eq=False, slots=True)
class Trial:
    """An experiment's candidate beside what serves."""

    experiment: Experiment
    edition: Edition


@dataclass(frozen=True, eq=False, slots=True)
class InService:
    """Everything a request must take at one moment."""

    current: Edition
    retired: tuple[Edition, ...] = ()  # newest first, without their indexes
    trial: Trial | None = None
    refusal: str = ""  # why the version published last does not serve

    def meant_for(self, key: UserKey) -> Edition:
        """Return the edition that is to read a person."""
        trial = self.trial
        return trial.edition if trial is not None and trial.experiment.arm_of(key) == CANDIDATE else self.current

    def assignment(self, key: UserKey) -> tuple[str, str] | None:
        """Return the running experiment's name and a person's arm in it."""
        experiment = None if self.trial is None else self.trial.experiment
        return None if experiment is None else (experiment.name, experiment.arm_of(key))

    def reading(self, state: UserState) -> Edition:
        """Return the edition that reads a person now: the one meant for them, or the one their posterior is of."""
        meant = self.meant_for(state.key)
        if state.posterior is None or state.posterior.population == meant.version:
            return meant
        known = (one for one in self.editions() if one.version == state.posterior.population)
        return next(known, meant)

    def is_behind(self, state: UserState) -> bool:
        """Whether a person's posterior has not seen all of their log, or is not of the edition meant for them."""
        if not state.position.seq:
            return False
        posterior = state.posterior
        if posterior is None or posterior.population != self.meant_for(state.key).version:
            return True
        return not state.is_current or state.num_pending > 0

    def live(self) -> Iterator[Edition]:
        """Yield the editions that somebody is meant to be read with."""
        yield self.current
        if self.trial is not None:
            yield self.trial.edition

    def editions(self) -> Iterator[Edition]:
        """Yield every edition that somebody may still be read with."""
        yield from self.live()
        yield from self.retired

    def followed_by(self, edition: Edition) -> InService:
        """Return what is in service once an edition was published."""
        retired = self._retire(self.current, {edition.version})
        return replace(self, current=edition, retired=retired, refusal="")

    def trying(self, trial: Trial | None) -> InService:
        """Return what is in service once an experiment began, or (None) ended."""
        live = {self.current.version} | (set() if trial is None else {trial.edition.version})
        retired = self.retired if self.trial is None else self._retire(self.trial.edition, live)
        return replace(self, trial=trial, retired=retired)

    def _retire(self, edition: Edition, live: Collection[str]) -> tuple[Edition, ...]:
        before = [replace(edition, index=None, snapshot=None), *self.retired]
        newest = {one.version: one for one in reversed(before) if one.version not in live}
        return tuple(reversed(newest.values()))[:MAX_RETIRED]
