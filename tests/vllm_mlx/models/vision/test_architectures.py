"""Models of many architectures, tiny and random, answer as mlx-vlm answers alone.

`UPDATE_DOCS=1 pytest -m 'slow or not slow'` on this file rewrites a table of docs/models.md.
"""

from __future__ import annotations

import dataclasses
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
from vllm_mlx.batching.runners.runner import Runner
from vllm_mlx.batching.runners.split import SplitRunner
from vllm_mlx.batching.slots.layout import Layout
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.errors import MediaError

pytestmark = [  # what mlx-vlm's processors do
    pytest.mark.filterwarnings("ignore:Image.Image.getdata is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values:UserWarning"),
]
DOCS = Path(__file__).parents[4] / "docs" / "models.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
NAMES = [*QWENS, *ARCHITECTURES]
ALIKE = {
    "dots_ocr",
    "glm4v",
    "glm_ocr",
    "idefics3",
    "kimi_vl",
    "llava_onevision",
    "mistral3",
    "paddleocr_vl",
    "pixtral",
    "qwen2_5_vl",
    "qwen3_5_moe",
    "qwen3_vl_moe",
}
"""Those that differ from another one in what does not matter to slots."""
MANY = ["qwen3_5"]
"""With windowless attention and states: the one that many rows are asked in every run."""
NO_VIDEO = ["dots_ocr", "llava_next", "mllama", "paddleocr_vl", "paligemma"]
ONE_IMAGE = ["llava_next", "mllama", "paddleocr_vl", "paligemma"]
REFUSED = "{} (takes one image a prompt|takes no videos|can't be shown these)"
QUESTIONS = [QUESTION, "Which of the two is larger, and by how much?", "Where?"]
HEAD = (
    "| Architecture | Remembers | Runs | Images in a prompt | Videos | Equal rows |\n"
    "|---|---|---|---|---|---|\n"
)

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


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in NAMES]
)
def pair(request, pair_of):
    return pair_of(request.param)


def test_rows_side_by_side_are_answered_as_by_mlx_vlm_alone(pair):
    two = [[PICTURE, OTHER], [OTHER, PICTURE]] if pair.name not in ONE_IMAGE else [[OTHER]]
    shown = [[], [PICTURE], [], [OTHER], *two, [], [PICTURE], [OTHER]]
    rows = [(media, QUESTIONS[at % 3], 3 + 5 * at % 11) for at, media in enumerate(shown)]
    found, expected = pair.tokens_of(rows), pair.each_alone(rows)
    assert found == expected
    documented(pair.name, seen(pair, len(rows)))


@pytest.mark.parametrize(
    "name",
    [name if name in MANY else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_many_rows_of_which_some_begin_alike_and_some_are_aborted(pair_of, name):
    pair = pair_of(name)
    rows = many_rows(40, 1 if name in ONE_IMAGE else 2)
    alone = pair.each_alone(rows)
    for width, count in ((7, 40), (1, 12)):
        bounds = {"max_num_seqs": width, "max_num_batched_tokens": 24}
        crowded = dataclasses.replace(pair, ours=several_at_once(pair.ours.model_name, **bounds))
        try:
            assert crowded.tokens_of(rows[:count], aborted=6) == alone[:count]
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


def documented(name: str, line: str) -> None:
    """Hold docs/models.md to what was found, or write it there."""
    if os.environ.get("UPDATE_DOCS"):
        rows = table() | {name: line}
        body = "".join(f"{rows[each]}\n" for each in NAMES if each in rows)
        DOCS.write_text(TABLE.sub(lambda _: HEAD + body, DOCS.read_text()))
    assert table()[name] == line, "UPDATE_DOCS=1 pytest on this file rewrites it"


def table() -> dict[str, str]:
    """The lines of the table, by architecture."""
    found = TABLE.search(DOCS.read_text())
    assert found
    return {line.split("`")[1]: line for line in found[0].splitlines()[2:]}


def test_the_documentation_lists_them():
    assert list(table()) == NAMES


def seen(pair: Pair, rows: int) -> str:
    """What is seen of a model by trying, and that so many rows were equal."""
    several = tokens_or_none(lambda: pair.answer(images=CLIP))
    video = tokens_or_none(lambda: pair.answer(videos=[CLIP]))
    videos = "no" if video is None else "yes"
    if video and video == several:
        videos = "its frames, as images"
    cells = [
        f"`{pair.name}`",
        str(Layout.of(make_prompt_cache(pair.model.language_model))),
        how(pair.runner),
        "one" if several is None else "several",
        videos,
        f"{rows} of {rows}",
    ]
    return f"| {' | '.join(cells)} |"


def how(runner: Runner) -> str:
    if isinstance(runner, SplitRunner):
        return "text in slots, images one at a time"
    if isinstance(runner, SlotRunner):
        return "in slots, whole prompts of one length together" if runner._whole else "in slots"
    return "one at a time"


def tokens_or_none(ask: Callable[[], Any]) -> tuple[int, str] | None:
    try:
        answer = ask()
    except MediaError:
        return None
    return answer.prompt_tokens, answer.text
