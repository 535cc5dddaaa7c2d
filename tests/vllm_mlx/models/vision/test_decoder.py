"""`Decoder` and `Embedder`: what is embedded once, what is shared, and what is computed whole."""

from __future__ import annotations

import inspect
import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_vlm.models import gemma3n

from tests.helpers.architectures import VOCAB, config_of
from tests.helpers.decoding import new_scheduler, randomize, sequential
from tests.helpers.exactness import play, ties, undo_dispatch, uneven_rows
from tests.helpers.metal import OUT_OF_MEMORY
from tests.helpers.text_folders import new_model
from tests.helpers.vision_folders import write_folder
from tests.helpers.vision_pair import Pair, pixels
from vllm_mlx.batching.prompts.prompt import Prepared
from vllm_mlx.batching.prompts.prompt_media import PromptMedia
from vllm_mlx.batching.runners.split import SplitRunner
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.models.vision.decoder import Decoder
from vllm_mlx.scheduler_config import Bounds

PICTURE, OTHER = pixels(1), pixels(2)
LONG = "Which of the two is larger, by how much, and how do you know that it is? " * 2
pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")


@pytest.fixture
def pair_of(tmp_path):
    pairs: list[Pair] = []

    def load(name: str, bounds=None, **text_config) -> Pair:
        folder = write_folder(tmp_path, name)
        config = json.loads((folder / "config.json").read_bytes())
        config["text_config"] |= text_config
        (folder / "config.json").write_text(json.dumps(config))
        pairs.append(Pair.of(folder, **(bounds or {})))
        return pairs[-1]

    yield load
    for pair in pairs:
        pair.ours.unload()


# The second needs the pixels for the positions of its tokens.
@pytest.mark.parametrize("name", ["smolvlm", "glm4v"])
def test_the_vision_tower_sees_an_image_once(pair_of, name):
    pair = pair_of(name)
    rows = [([PICTURE], question, 6) for question in ("What?", "Where?", "Who is it?")]
    expected = pair.each_alone(rows)
    assert pair.tokens_of(rows[:1]) == expected[:1]
    model = pair.ours._core.loaded.model
    encoded = model._embedder.encoded
    tower = getattr(model._model, "vision_tower", None) or model._model.vision_model
    tower.update(tree_map(lambda weight: weight * mx.nan, tower.parameters()))
    assert pair.tokens_of(rows[1:]) == expected[1:]
    assert model._embedder.encoded == encoded


def test_what_a_failed_gpu_made_of_an_image_is_made_again(pair_of, monkeypatch):
    pair = pair_of("smolvlm")
    rows = [([PICTURE], question, 6) for question in ("What?", "Where?")]
    expected = pair.each_alone(rows)
    assert pair.tokens_of(rows[:1]) == expected[:1]
    model, launch, failures = pair.ours._core.loaded.model, SlotRunner._launch, [OUT_OF_MEMORY]
    for seen in model._embedder._kept.values():
        seen.features[:] = 9.0
        mx.eval(seen.features)

    def fail_once(self, before):
        if failures:
            raise RuntimeError(failures.pop())
        return launch(self, before)

    monkeypatch.setattr(SlotRunner, "_launch", fail_once)
    assert pair.tokens_of(rows[1:]) == expected[1:]
    assert not failures


def test_what_media_became_is_kept_within_bounds(pair_of):
    pair = pair_of("smolvlm")
    rows = [([pixels(seed)], "What?", 3) for seed in range(4)]
    pair.tokens_of(rows[:1])
    embedder = pair.ours._core.loaded.model._embedder
    embedder._max_bytes = embedder._nbytes + 1
    pair.tokens_of(rows[1:])
    assert 0 < embedder._nbytes <= embedder._max_bytes
    encoded = embedder.encoded
    pair.tokens_of(rows[:1])
    assert embedder.encoded == encoded + 1


def test_prompts_share_what_has_the_same_media(pair_of):
    pair = pair_of("smolvlm", {"max_num_seqs": 4})
    rows = [([image], LONG + end, 6) for image in (PICTURE, OTHER) for end in "abcd"]
    assert pair.tokens_of(rows) == pair.each_alone(rows)
    shared = pair.ours._core.stats.cached_tokens
    assert shared > 2 * len(LONG), "the later questions about each image begin alike"


@pytest.mark.parametrize("name", ["gemma4"])
def test_a_prompt_whose_image_sees_itself_whole_is_computed_at_once(pair_of, name):
    pair = pair_of(name, {"max_num_batched_tokens": 8}, use_bidirectional_attention="vision")
    rows = [([PICTURE], LONG, 6), ([], LONG, 6), ([PICTURE], LONG + "!", 6), ([OTHER], "Who?", 9)]
    assert pair.tokens_of(rows) == pair.each_alone(rows)


class SmallTower(nn.Module):
    """In place of gemma3n's, which comes in one size: four tokens of an image of 4 x 4."""

    def __init__(self, config):
        super().__init__()
        self.projection = nn.Linear(12, config.hidden_size)

    def __call__(self, pixels, **options):
        return self.projection(pixels.reshape(-1, 2, 2, 12))


@pytest.fixture(scope="module")
def shared_keys():
    """mlx-lm's gemma3n, and mlx-vlm's with the same weights and a small tower."""
    theirs = new_model("gemma3n")
    given = config_of("gemma3n")["text_config"]
    given = {**given, "intermediate_size": [given["intermediate_size"]] * len(theirs.layers)}
    known = inspect.signature(gemma3n.TextConfig).parameters
    config = gemma3n.ModelConfig(
        text_config=gemma3n.TextConfig(**{name: given[name] for name in given if name in known}),
        vision_config=gemma3n.VisionConfig(hidden_size=16, vocab_size=10, vocab_offset=VOCAB - 20),
        audio_config=gemma3n.AudioConfig(hidden_size=16, vocab_size=10, vocab_offset=VOCAB - 10),
        model_type="gemma3n",
        image_token_id=VOCAB - 15,
        vision_soft_tokens_per_image=4,
    )
    with pytest.MonkeyPatch.context() as patched:
        for name in ("VisionModel", "AudioModel"):
            patched.setattr(f"mlx_vlm.models.gemma3n.gemma3n.{name}", SmallTower)
        model = randomize(gemma3n.Model(config))
    prefix, weights = "model.language_model.", tree_flatten(theirs.parameters())
    same = [(f"model.{name.removeprefix(prefix)}", each) for name, each in weights]
    model.language_model.load_weights(same)
    return theirs, model


def one_image() -> Prepared:
    image = VOCAB - 15
    tokens = [11, 12, image, image, image, image, 20, 30, 40]
    inputs = {"input_ids": mx.array([tokens]), "pixel_values": mx.random.normal((1, 3, 4, 4))}
    places = (np.arange(2, 6),)
    media = PromptMedia((), print, places=places, contents=("one",), inputs=lambda: inputs)
    return Prepared(tokens, media)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("count", "width"), [(10, 7), pytest.param(40, 7, marks=SLOW), pytest.param(40, 1, marks=SLOW)]
)
def test_text_of_layers_with_keys_of_others_is_answered_as_by_mlx_lm(shared_keys, count, width):
    theirs, model = shared_keys
    rows = uneven_rows(VOCAB, count)
    undo_dispatch()
    alone = [sequential(theirs, row.prompt, row.limit) for row in rows]
    scheduler = new_scheduler(
        Decoder(model, lambda: None),
        vocab_size=VOCAB,
        max_num_seqs=width,
        max_num_batched_tokens=80,
    )
    assert isinstance(scheduler._runner, SlotRunner)
    assert "by how a prompt is cut" in scheduler.stats.way
    assert ties(theirs, rows, play(scheduler, rows), alone) == []
    assert scheduler.stats.cached_tokens


def test_images_of_a_model_that_mlx_vlm_answers_otherwise_run_beside_its_text(shared_keys):
    _, model = shared_keys
    scheduler = new_scheduler(Decoder(model, one_image), vocab_size=VOCAB, max_num_seqs=3)
    assert isinstance(scheduler._runner, SplitRunner)
    assert "(rows with media beside it, one at a time: log-prob" in scheduler.stats.way


def test_kv_cache_bytes_bound_layers_with_keys_of_others_one_at_a_time(shared_keys):
    _, model = shared_keys
    bounds = Bounds(max_num_seqs=2, max_num_batched_tokens=80, kv_cache_bytes=1 << 20)
    runner = Decoder(model, lambda: None).new_alone_runner(vocab_size=VOCAB, bounds=bounds)
    assert runner.refusal(100, 100) is None
    said = runner.refusal(10_000, 10_000)
    assert said is not None
    assert "kv_cache_bytes is 1,048,576" in said
