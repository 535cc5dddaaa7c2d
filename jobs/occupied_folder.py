"""What an output folder holds before a run begins in it: whose it is, and how it is moved aside."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from jobs.dataset import Dataset
from jobs.dataset.atomic import explain_write
from jobs.errors import OutputTakenError, RunExistsError
from jobs.ledger import Ledger, RunState
from jobs.run_spec import InputSpec, RunSpec
from vllm_mlx.errors import shown

_SHOWN = 3
"""Files that are named in an error."""
_DECIDING = {"model", "input", "sampling", "video_params", "template", "selection", "n", "chat"}
_DECIDING |= {"shard_size", "retry_incomplete", "bad_rows"}
"""Fields of a `RunSpec` that make its identity, beside the folder."""


def check_folder(folder: Path, asked: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another run than the one that is asked for.

    Args:
        asked: fields of its `RunSpec`; what the input's rows decide need not be among them.

    Raises:
        OutputTakenError: with what differs, and what to do; also where files lie in it that are no
            run's.
        DatasetError: its manifest is not one that this version writes.
    """
    dataset = Dataset(folder)
    dataset.check_foreign()
    if not dataset.is_claimed:
        _refuse_foreign(dataset)
        return
    manifest = dataset.manifest()
    try:
        spec = {name: value for name, value in manifest.items() if name != "result"}
        held = RunSpec.model_validate_json(json.dumps(spec))
        differs = list(_differences(held, asked))
    except ValueError:
        differs = ["by which version of mlx-batch it was made"]
    if differs:
        state = "finished" if dataset.is_finished else "not finished"
        raise OutputTakenError(
            "\n".join(
                [
                    f"{folder} holds run {manifest['run_id']} ({state}), which differs in",
                    *(f"  {each}" for each in differs),
                    f"Choose another --out, or give --overwrite, which moves that run to "
                    f"{aside(folder).name}.",
                ]
            )
        )


def check_server(ledger: Ledger, spec: RunSpec) -> None:
    """Refuse a folder that is another run's on the server, whose workers need not have made it.

    Raises:
        RunExistsError: with what differs, and what to do.
        LedgerError: the other run's record is not one that this version writes.
    """
    holder = ledger.holder(spec.out)
    if holder is None or holder == spec.run_id:
        return
    held, progress = ledger.spec(holder), ledger.progress(holder)
    differs = list(_differences(held, {name: getattr(spec, name) for name in sorted(_DECIDING)}))
    state = "finished" if progress.state is RunState.FINISHED else "not finished"
    raise RunExistsError(
        "\n".join(
            [
                f"{spec.out} is the folder of {holder} on this server ({state}), which differs in",
                *(f"  {each}" for each in differs or ["what its rows are"]),
                f"Choose another --out, or give that run up: `mlx-batch forget {spec.called}`; "
                f"`mlx-batch status {spec.called}` shows where it is.",
            ]
        )
    )


def aside(folder: Path) -> Path:
    """Return where the folder is moved to make room: beside it, under a name that is free."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = folder.with_name(f"{folder.name}.old-{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}.old-{stamp}-{number}")
    return target


def move_aside(folder: Path) -> Path | None:
    """Rename the folder if it holds anything; returns its new name.

    Raises:
        DatasetError: it can't be moved, as the root of a file system can't be.
    """
    with explain_write(folder):
        if not folder.exists() or not any(folder.iterdir()):
            return None
        return folder.rename(aside(folder))


def _refuse_foreign(dataset: Dataset) -> None:
    """Refuse a folder that holds anything but what runs write, hidden files aside."""
    with explain_write(dataset.root):
        if not dataset.root.is_dir():
            return
        own = {dataset.layout.data, dataset.layout.manifest.parent, dataset.root / "lost+found"}
        files = [path for path in dataset.root.iterdir() if path not in own]
        if dataset.layout.data.is_dir():
            files += dataset.layout.data.iterdir()
    names = sorted(str(f.relative_to(dataset.root)) for f in files if not f.name.startswith("."))
    if names:
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        raise OutputTakenError(
            f"{dataset.root} holds {', '.join(names[:_SHOWN])}{more}, written by no run: "
            "choose another --out, or move these away"
        )


def _differences(held: RunSpec, asked: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each setting that has another value in the run that is there."""
    for name, new in asked.items():
        old = getattr(held, name)
        if isinstance(new, InputSpec):
            if (old.fingerprint, old.format) != (new.fingerprint, new.format):
                same = "with other content" if old.path == new.path else f"not {new.path}"
                yield f"input: {old.path}, {same}"
        elif isinstance(old, BaseModel) or isinstance(new, BaseModel):
            there, here = _settings(old), _settings(new)
            for each in sorted(there.keys() | here.keys()):
                if there.get(each) != here.get(each):
                    yield f"{each}: {shown(there.get(each))}, not {shown(here.get(each))}"
        elif old != new:
            yield f"{name}: {shown(old)}, not {shown(new)}"


def _settings(settings: BaseModel | None) -> dict[str, Any]:
    return settings.model_dump(mode="json") if settings else {}
