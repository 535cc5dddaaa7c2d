"""`WorkerSettings`: what the workers of a run on this machine are told; its folder keeps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, Field

from jobs.dataset import Dataset
from jobs.dataset.atomic import replace_file
from jobs.errors import DatasetError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.model_files import ALIASES, local_path
from vllm_mlx.scheduler_config import SchedulerConfig


class WorkerSettings(BaseModel, frozen=True, extra="forbid"):
    """What `mlx-batch run` tells its workers beside the run itself.

    Commands that let the run go on later tell theirs the same: of a folder or an adapter the
    manifest has a name only, and of what media may be read nothing.

    Attributes:
        model, adapter: what they load.
        workers: how many there are, each with a model of its own.
        scheduler: bounds of each worker's engine.
        media: what a worker may read.
        report: whether a worker writes the report at the end; None is the worker's own default.
    """

    model: str
    adapter: Path | None = None
    workers: int = Field(default=1, ge=1)
    scheduler: SchedulerConfig = SchedulerConfig()
    media: MediaPolicy = MediaPolicy()
    report: bool | None = None

    @classmethod
    def read(cls, out: Path) -> WorkerSettings | None:
        """Return what a dataset's folder keeps; None if its run was worked on elsewhere.

        Folders of media that are gone are left out: what rows need of them is said in the rows.

        Raises:
            DatasetError: it is not what this version writes.
        """
        file = _file(out)
        try:
            kept = cls.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DatasetError(f"{file} is not one this version writes: {error}") from error
        there = tuple(filter(Path.is_dir, kept.media.allowed_paths or ()))
        return kept.model_copy(update={"media": replace(kept.media, allowed_paths=there)})

    @staticmethod
    def is_kept(out: Path) -> bool:
        """Return whether a dataset's folder keeps any."""
        return _file(out).exists()

    def keep(self, out: Path) -> None:
        """Write it into a dataset's folder, with paths that hold from everywhere."""
        path = None if self.model in ALIASES else local_path(self.model)
        there = {
            "model": str(path.absolute()) if path else self.model,
            "adapter": self.adapter and self.adapter.expanduser().absolute(),
        }
        text = self.model_copy(update=there).model_dump_json(indent=2)
        replace_file(_file(out), text.encode() + b"\n", Dataset(out).layout.temporary)

    @staticmethod
    def forget(out: Path) -> None:
        """Remove it from a dataset's folder: its run goes on elsewhere."""
        _file(out).unlink(missing_ok=True)

    def may_read(self, folder: Path | None) -> WorkerSettings:
        """Return these settings with another folder whose media may be read, if one is given."""
        if folder is None:
            return self
        media = self.media
        paths = MediaPolicy.of([folder, *(media.allowed_paths or ())], ()).allowed_paths or ()
        paths = tuple(dict.fromkeys(paths))
        return self.model_copy(update={"media": replace(media, allowed_paths=paths)})


def _file(out: Path) -> Path:
    return out / "_job" / "workers.json"
