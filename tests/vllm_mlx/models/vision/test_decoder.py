"""`Decoder` and `Embedder`: what is embedded once, what is shared, and what is computed whole."""

from __future__ import annotations

import inspect
import json
from types import SimpleNamespace

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_vlm.models.gemma3n.config import TextConfig
from mlx_vlm.models.gemma3n.language import LanguageModel

from tests.helpers.architectures import VOCAB, config_of
from tests.helpers.decoding import new_scheduler, sequential
from tests.helpers.exactness import play, ties, undo_dispatch, uneven_rows
from tests.helpers.metal import OUT_OF_MEMORY
from tests.helpers.text_folders import new_model
from tests.helpers.vision_folders import write_folder
from tests.helpers.vision_pair import Pair, pixels
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


@pytest.fixture(scope="module")
def shared_keys():
    """The part of gemma3n for text as mlx-lm has it, and the same as mlx-vlm has it."""
    theirs = new_model("gemma3n")
    given = {**config_of("gemma3n")["text_config"]}
    given["intermediate_size"] = [given["intermediate_size"]] * given["num_hidden_layers"]
    known = inspect.signature(TextConfig).parameters
    text = LanguageModel(TextConfig(**{name: given[name] for name in given if name in known}))
    prefix = "model.language_model."
    weights = tree_flatten(theirs.parameters())
    text.load_weights([(f"model.{name.removeprefix(prefix)}", each) for name, each in weights])
    return theirs, text


def decoder_of(text) -> Decoder:
    config = SimpleNamespace(model_type="gemma3n")
    model = SimpleNamespace(language_model=text, config=config, modules=text.modules)
    return Decoder(model, lambda: None)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("count", "width"), [(10, 7), pytest.param(40, 7, marks=SLOW), pytest.param(40, 1, marks=SLOW)]
)
def test_text_of_layers_with_keys_of_others_is_answered_as_by_mlx_lm(shared_keys, count, width):
    theirs, text = shared_keys
    rows = uneven_rows(VOCAB, count)
    undo_dispatch()
    alone = [sequential(theirs, row.prompt, row.limit) for row in rows]
    scheduler = new_scheduler(
        decoder_of(text), vocab_size=VOCAB, max_num_seqs=width, max_num_batched_tokens=80
    )
    assert isinstance(scheduler._runner, SlotRunner)
    assert "by how a prompt is cut" in scheduler.stats.way
    assert ties(theirs, rows, play(scheduler, rows), alone) == []
    assert scheduler.stats.cached_tokens


def test_kv_cache_bytes_bound_layers_with_keys_of_others_one_at_a_time(shared_keys):
    _, text = shared_keys
    bounds = Bounds(max_num_seqs=2, max_num_batched_tokens=80, kv_cache_bytes=1 << 20)
    runner = decoder_of(text).new_alone_runner(vocab_size=VOCAB, bounds=bounds)
    assert runner.refusal(100, 100) is None
    said = runner.refusal(10_000, 10_000)
    assert said is not None
    assert "kv_cache_bytes is 1,048,576" in said
