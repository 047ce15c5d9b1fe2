"""Where Palate keeps what it keeps: one folder, `PALATE_HOME`.

Knows paths only. The folder is made on first use, readable by its owner alone, since it will hold people's feedback.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Home:
    """The layout below `PALATE_HOME`."""

    path: Path

    @classmethod
    def from_env(cls) -> Home:
        """Take `PALATE_HOME`, else `$XDG_DATA_HOME/palate`, else `~/.local/share/palate`."""
        named = os.environ.get("PALATE_HOME")
        if named:
            return cls(Path(named).expanduser().absolute())
        data_home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        return cls(Path(data_home).expanduser().absolute() / "palate")

    @property
    def models(self) -> Path:
        """Converted models, one folder each."""
        return self.path / "models"

    @property
    def cache(self) -> Path:
        """Compiler caches; safe to delete."""
        return self.path / "cache"

    @property
    def keys(self) -> Path:
        """API keys, without their secrets."""
        return self.path / "keys.json"

    @property
    def store_url(self) -> str:
        """The embedded store."""
        return f"sqlite://{quote(str(self.path))}/palate.db"

    @property
    def spool(self) -> Path:
        """Feedback that waits for a store that is away, one file a replica."""
        return self.path / "spool"

    @property
    def latents(self) -> Path:
        """Snapshots of the latent index; safe to delete."""
        return self.path / "latents"

    @property
    def artifacts(self) -> Path:
        """Versions of what was learned from everyone, one folder each."""
        return self.path / "artifacts"

    def create(self) -> Home:
        """Make the folder (mode 0700) if it is missing."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self
