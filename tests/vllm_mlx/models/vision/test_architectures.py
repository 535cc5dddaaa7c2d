"""Models of many architectures, tiny and random, answer as mlx-vlm answers alone.

`UPDATE_DOCS=1 pytest` on this file rewrites the table of docs/models.md.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_vlm.models.cache import make_prompt_cache

from tests.helpers.vision_folders import ARCHITECTURES, write_folder
from tests.helpers.vision_pair import QUESTION, Pair, images, pixels, several_at_once
from tests.helpers.vlm import QWENS, random_vlm
from vllm_mlx.batching.one_by_one import OneByOneRunner
from vllm_mlx.batching.slots.layout import Layout
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.batching.split import SplitRunner
from vllm_mlx.errors import MediaError

pytestmark = [  # what mlx-vlm's processors do
    pytest.mark.filterwarnings("ignore:Image.Image.getdata is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values:UserWarning"),
]
DOCS = Path(__file__).parents[4] / "docs" / "models.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
NAMES = [*QWENS, *ARCHITECTURES]
SLOW = ["dots_ocr"]
"""Their vocabulary is large: the table is checked without them."""
MANY = ["qwen3_5"]
"""With windowless attention and states: the one that many rows are asked in every run."""
NO_VIDEO = ["dots_ocr", "llava_next", "mllama", "paddleocr_vl", "paligemma"]
ONE_IMAGE = ["llava_next", "mllama", "paddleocr_vl", "paligemma"]
REFUSED = "{} (takes one image a prompt|takes no videos|can't be shown these)"
QUESTIONS = [QUESTION, "Which of the two is larger, and by how much?", "Where?"]
HEAD = [
    "| Architecture | Remembers | Runs | Images in a prompt | Videos | Equal rows |\n",
    "|---|---|---|---|---|---|\n",
]
RUNS = {
    SlotRunner: "in slots",
    SplitRunner: "text in slots, images one at a time",
    OneByOneRunner: "one at a time",
}


PICTURE, OTHER = pixels(1), pixels(2)
CLIP = [pixels(seed) for seed in range(3, 7)]


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory):
    pairs: dict[str, Pair] = {}

    def load(name: str) -> Pair:
        if name not in pairs:
            parent = tmp_path_factory.mktemp("models")
            write = random_vlm if name in QWENS else write_folder
            pairs[name] = Pair.of(write(parent, name))
        return pairs[name]

    yield load
    for pair in pairs.values():
        pair.ours.unload()


@pytest.fixture(scope="module")
def answers_of():
    """Answers to rows with images, without, and with two, asked at once and alone."""

    @functools.cache
    def answer(pair: Pair) -> tuple[list[list[int]], list[list[int]]]:
        two = [[PICTURE, OTHER], [OTHER, PICTURE]] if pair.name not in ONE_IMAGE else [[OTHER]]
        shown = [[], [PICTURE], [], [OTHER], *two, [], [PICTURE], [OTHER]]
        rows = [(media, QUESTIONS[at % 3], 3 + 5 * at % 11) for at, media in enumerate(shown)]
        return pair.tokens_of(rows), pair.each_alone(rows)

    return answer


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES]
)
def pair(request, pair_of):
    return pair_of(request.param)


def test_rows_side_by_side_are_answered_as_by_mlx_vlm_alone(pair, answers_of):
    found, expected = answers_of(pair)
    assert found == expected


@pytest.mark.parametrize("width", [pytest.param(1, marks=pytest.mark.slow), 7])
@pytest.mark.parametrize(
    "name",
    [name if name in MANY else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_many_rows_of_which_some_begin_alike_and_some_are_aborted(pair_of, name, width):
    pair = pair_of(name)
    most = 1 if name in ONE_IMAGE else 2
    rows = many_rows(40 if width > 1 else 12, most)
    bounds = {"max_num_seqs": width, "max_num_batched_tokens": 24}
    crowded = dataclasses.replace(pair, ours=several_at_once(pair.ours.model_name, **bounds))
    try:
        assert crowded.tokens_of(rows, aborted=6) == pair.each_alone(rows)
    finally:
        crowded.ours.unload()


def many_rows(count: int, most: int) -> list[tuple[list[Any], str, int]]:
    """Images, a question and a limit each; a third has a long question that others have, too."""
    choose = random.Random(7)
    shown = [pixels(seed) for seed in range(4)]
    rows = []
    for at in range(count):
        images = [choose.choice(shown) for _ in range(choose.choice([0, 0, 1, 1, most]))]
        own = "x" * choose.randint(1, 130)
        question = QUESTIONS[1] * 3 + str(at) if at % 3 == 0 else choose.choice([own, *QUESTIONS])
        rows.append((images, question, choose.randint(1, 25)))
    return rows


def test_the_image_is_seen(pair):
    answers = [pair.answer(images=[each]) for each in (PICTURE, OTHER)]
    one, other = ([each.logprob for each in answer.logprobs] for answer in answers)
    assert max(abs(a - b) for a, b in zip(one, other, strict=False)) > 1e-3
    (seen,) = answers[0].media
    assert (seen.kind, seen.width, seen.height) == ("image", 48, 40)


@pytest.mark.parametrize("name", ONE_IMAGE)
def test_several_images_are_refused(pair_of, name):
    with pytest.raises(MediaError, match=REFUSED.format(name)):
        pair_of(name).answer(images=[PICTURE, OTHER])


def test_a_video_is_seen_or_refused(pair):
    if pair.name in NO_VIDEO:
        with pytest.raises(MediaError, match=REFUSED.format(pair.name)):
            pair.answer(videos=[CLIP])
        return
    if pair.name in [*QWENS, "llava_onevision"]:
        metadata = {"total_num_frames": 4, "fps": 2.0, "frames_indices": [0, 1, 2, 3]}
        media = {"videos": [np.stack(CLIP)], "video_metadata": [metadata]}
        expected = pair.alone("video", **media)
    else:
        expected = pair.alone(*["image"] * 4, images=images(*CLIP))
    answer = pair.answer(videos=[CLIP])
    assert [each.token_id for each in answer.logprobs] == expected
    (seen,) = answer.media
    assert (seen.kind, seen.timestamps) == ("video", (0.0, 0.5, 1.0, 1.5))


def test_docs_have_the_table(pair_of, answers_of):
    update = bool(os.environ.get("UPDATE_DOCS"))
    pairs = [pair_of(name) for name in NAMES if update or name not in SLOW]
    table = [*HEAD, *(row(pair, *answers_of(pair)) for pair in pairs)]
    text = DOCS.read_text()
    if update:
        DOCS.write_text(TABLE.sub(lambda _: "".join(table), text))
        return
    found = TABLE.search(text)
    assert found
    lines = found[0].splitlines(keepends=True)
    tried = [line for line in lines if not any(f"| `{name}` |" in line for name in SLOW)]
    assert tried == table, "UPDATE_DOCS=1 pytest on this file rewrites it"


def row(pair: Pair, found: list[list[int]], expected: list[list[int]]) -> str:
    """What is seen of a model by trying."""
    several = tokens_or_none(lambda: pair.answer(images=CLIP))
    video = tokens_or_none(lambda: pair.answer(videos=[CLIP]))
    videos = "no" if video is None else "yes"
    if video and video == several:
        videos = "its frames, as images"
    equal = sum(one == other for one, other in zip(found, expected, strict=True))
    cells = [
        f"`{pair.name}`",
        str(Layout.of(make_prompt_cache(pair.model.language_model))),
        RUNS[type(pair.runner)],
        "one" if several is None else "several",
        videos,
        f"{equal} of {len(expected)}",
    ]
    return f"| {' | '.join(cells)} |\n"


def tokens_or_none(ask: Callable[[], Any]) -> tuple[int, str] | None:
    try:
        answer = ask()
    except MediaError:
        return None
    return answer.prompt_tokens, answer.text
