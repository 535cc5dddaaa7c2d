"""`Engine`: what `SimpleEngine` and `BatchedEngine` share, which is all but the width."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from mlx_lm.tokenizer_utils import TokenizerWrapper

from vllm_mlx.adapter import Adapter
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.request import Request
from vllm_mlx.engine.calls import EngineCalls
from vllm_mlx.errors import EngineStoppedError
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy, VideoReader
from vllm_mlx.model_files import require_model
from vllm_mlx.models.loading import load_model
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.scheduler_config import SchedulerConfig


class Engine(EngineCalls):
    """A model behind `async` calls. Using it before `start()` starts it.

    One that is dropped without `stop()` ends and frees its model, as at the end of the process.

    Args:
        model_name: a hub id, a local folder, a `.gguf` file, or an alias.
        adapter_path: a folder that mlx_lm.lora has written, LoRA or DoRA.
        trust_remote_code: run code that comes with the model.
        media_policy: what may be read and fetched for a prompt; by default whatever it names.
        video_reader: see `MediaPolicy.video_reader`; `auto` leaves it to the policy.

    Raises:
        ModelLoadError: the model or the adapter is not there, as far as this machine knows, or is
            none.
    """

    _config: SchedulerConfig

    def __init__(
        self,
        model_name: str,
        *,
        adapter_path: str | Path | None = None,
        trust_remote_code: bool = False,
        media_policy: MediaPolicy = UNRESTRICTED,
        video_reader: VideoReader = "auto",
    ) -> None:
        if video_reader != "auto":
            media_policy = replace(media_policy, video_reader=video_reader)
        require_model(model_name)
        self.model_name = model_name
        self.adapter_path = None if adapter_path is None else Adapter.of(adapter_path).folder
        load = partial(load_model, adapter_path=adapter_path, trust_remote_code=trust_remote_code)
        one = self._config.max_num_seqs == 1
        self._core = EngineCore(model_name, load, self._config, media=media_policy, in_line=one)
        self._stopped = False

    async def start(self) -> None:
        """Load the model and wait until it is ready; cancelling this ends the loading.

        Raises:
            ModelLoadError: it is missing, unreadable or of an unknown kind.
            EngineStoppedError: it is stopped meanwhile, or the process was forked from one with it.
        """
        self._stopped = False
        ready = self._core.begin()
        try:
            await asyncio.wrap_future(ready)
        except asyncio.CancelledError:
            if not ready.done():
                self._core.stop(wait=False)
            raise

    async def stop(self) -> None:
        """Free the model; calls that still wait raise `EngineStoppedError`."""
        self._stopped = True
        await asyncio.to_thread(self._core.stop)

    async def abort(self, request_id: str) -> None:
        """End a request; its call raises `RequestAbortedError`.

        Args:
            request_id: as it was given to the call; unknown ones are ignored.
        """
        self._core.abort(request_id)

    @property
    def stats(self) -> EngineStats:
        """Counts since the start: tokens, steps, what runs and what waits."""
        return self._core.stats

    @property
    def tokenizer(self) -> TokenizerWrapper:
        """The model's tokenizer, as mlx-lm loads it.

        Raises:
            EngineStoppedError: the engine is not started.
        """
        return self._core.loaded.tokenizer

    async def _submit(
        self, *requests: Request, all_or_none: bool = False
    ) -> list[Future[GenerationOutput]]:
        if self._stopped:
            raise EngineStoppedError(f"the engine of {self.model_name} was stopped")
        if not self._core.is_running:
            await asyncio.wrap_future(self._core.begin())
        return self._core.submit(*requests, all_or_none=all_or_none)

    def __repr__(self) -> str:
        adapter = f" with {self.adapter_path}" if self.adapter_path else ""
        return f"<{type(self).__name__} {self.model_name}{adapter}: {self._core.state}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
