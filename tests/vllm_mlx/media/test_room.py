"""The room for pixels: bounded, first come, first served, and given back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.clips import make_clip
from vllm_mlx.media.image import read_image
from vllm_mlx.media.policy import UNRESTRICTED
from vllm_mlx.media.room import Room
from vllm_mlx.media.video import read_video
from vllm_mlx.video_params import VideoParams


def test_threads_hold_no_more_together_than_there_is() -> None:
    room, lock = Room(100), threading.Lock()
    held, most = 0, 0

    def work(nbytes: int) -> None:
        nonlocal held, most
        with room.share() as claim:
            claim(nbytes)
            with lock:
                held += nbytes
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= nbytes

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, [10, 30, 70, 100] * 10))
    assert 70 < most <= 100
    assert room._held == 0


def test_what_is_too_large_is_held_alone_and_not_overtaken() -> None:
    room, order = Room(100), []

    def work(nbytes: int) -> None:
        with room.share() as claim:
            claim(nbytes)
            order.append(nbytes)

    with room.share() as claim:
        claim(10)
        threads = [threading.Thread(target=work, args=(nbytes,)) for nbytes in (500, 20)]
        for waiting, thread in enumerate(threads, 1):
            thread.start()
            while len(room._waiting) < waiting:
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join(5)
    assert order == [500, 20]


def test_a_second_claim_replaces_the_first_and_an_error_gives_it_back() -> None:
    room = Room(100)

    def work() -> None:
        with room.share() as claim:
            claim(90)
            claim(80)
            assert room._held == 80
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert room._held == 0


def test_readers_claim_before_they_decode(tmp_path) -> None:
    claimed: list[int] = []
    make_clip(tmp_path / "video.mp4", 60)
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "image.png")

    how: Any = {"policy": UNRESTRICTED, "name": "a medium", "claim": claimed.append}
    clip = read_video(tmp_path / "video.mp4", VideoParams.of(), **how)
    read_image(tmp_path / "image.png", **how)

    assert claimed == [clip.frames.nbytes, 30 * 40 * 4]
