"""GenerationRequest: what makes a request, and what is refused in which words."""

from __future__ import annotations

import subprocess
import sys
import timeit
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import ValidationError

import jobs
from jobs.requests import GenerationRequest
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams

CHAT = [{"role": "user", "content": "hi"}]


def complaint(data: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        GenerationRequest.parse(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_prompt_is_a_request_with_the_sampling_defaults() -> None:
    request = GenerationRequest.parse({"prompt": "hi"})
    assert request.prompt == "hi"
    assert (request.id, request.messages) == (None, None)
    assert request.model_fields_set == {"prompt"}
    for defaults in (SamplingParams.of(), VideoParams.of()):
        for name in type(defaults).model_fields:
            assert getattr(request, name) == getattr(defaults, name)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("tools", '[{"type": "function", "function": {"name": "a", "description": "\\ud800"}}]'),
        ("structured_outputs", {"choice": ["\ud800"]}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"a": "\ud800"}}}),
        ("stop", "\ud800"),
    ],
)
def test_half_a_surrogate_pair_is_named(field: str, given: Any) -> None:
    said = complaint({"messages": CHAT, field: given})
    assert field in said
    assert r"='\ud800': holds '\ud800', half a surrogate pair, which is no text" in said


def test_a_chat_is_a_request() -> None:
    messages = [
        {"role": role, "content": role, "name": "n"}
        for role in ("system", "user", "assistant", "tool", "developer")
    ]
    request = GenerationRequest.parse({"messages": messages})
    assert request.messages == messages
    assert request.prompt is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", ""),
        ([{"type": "text", "text": "a"}], "a"),
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}], "a b"),
        ([], ""),
    ],
)
def test_text_parts_are_joined(content: Any, text: str) -> None:
    request = GenerationRequest.parse({"messages": [{"role": "user", "content": content}]})
    assert request.messages == [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("part", "normal"),
    [
        ({"type": "image_url", "image_url": {"url": "a.png"}}, "image"),
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": "auto"}}, "image"),
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": None}}, "image"),
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}, "image"),
        ({"type": "image_url", "image_url": "a.png", "detail": "high"}, "image"),
        ({"type": "image_url", "image_url": "a.png"}, "image"),
        ({"type": "image_url", "url": "a.png"}, "image"),
        ({"type": "image", "url": "a.png"}, "image"),
        ({"type": "image", "image": {"url": "a.png"}}, "image"),
        ({"type": "image", "image": "a.png", "min_pixels": None}, "image"),
        ({"type": "video_url", "video_url": {"url": "a.png"}}, "video"),
        ({"type": "video_url", "video_url": "a.png"}, "video"),
        ({"type": "video", "video": "a.png"}, "video"),
        ({"type": "video", "url": "a.png"}, "video"),
    ],
)
def test_media_parts_have_one_form(part: dict[str, Any], normal: str) -> None:
    text = {"type": "text", "text": "what?"}
    request = GenerationRequest.parse({"messages": [{"role": "user", "content": [part, text]}]})
    medium = {"type": normal, normal: "a.png"}
    assert request.messages == [{"role": "user", "content": [medium, text]}]
    assert request.media == [medium]
    assert request.chat() == request.messages


def test_media_parts_stay_in_order_between_texts() -> None:
    parts = [
        {"type": "text", "text": "this"},
        {"type": "video", "video": "v"},
        {"type": "text", "text": "or"},
        {"type": "image", "image": "i"},
    ]
    request = GenerationRequest.parse({"messages": [*CHAT, {"role": "user", "content": parts}]})
    assert request.messages == [*CHAT, {"role": "user", "content": parts}]
    assert request.media == [parts[1], parts[3]]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("a", "type None"),
        (None, "type None"),
        ({"type": "text"}, "'text'"),
        ({"type": "input_audio"}, "'input_audio': allowed are text, image_url, image, video_url,"),
        ({"type": ["image"]}, "['image']: allowed are"),
        ({"type": "image"}, "a path, URL or data URL as a string under 'image'"),
        ({"type": "image", "image": ""}, "as a string under 'image'"),
        ({"type": "image", "image": {"path": "x"}}, "unknown key 'path' in 'image'"),
        ({"type": "image", "image": "x", "url": "y"}, "unknown key 'url' in a part of type"),
        ({"type": "image", "image": {"url": "x"}, "url": "y"}, "unknown key 'url'"),
        ({"type": "video", "video": ["1.png", "2.png"]}, "as a string under 'video'"),
        ({"type": "image_url", "image_url": {}}, "as a string under 'image_url' or 'url'"),
        ({"type": "image", "image": "x", "detail": "best"}, "detail='best'"),
        ({"type": "image_url", "image": "x"}, "unknown key 'image'"),
        ({"type": "text", "text": "x", "image": "x"}, "'image' in a part of type 'text'"),
        ({"type": "video", "video": "x", "fps": 2.0}, "of type 'video'; which frames of a video"),
        (
            {"type": "image", "image": "x", "min_pixels": 9},
            "of type 'image'; leave it out; a model",
        ),
        ({"type": "image", "image": "x", "foo": 9}, "'foo' in a part of type 'image'; a part is {"),
        ({"type": "image", "source": {"type": "base64"}}, "write Anthropic's images as {"),
    ],
)
def test_malformed_parts(part: Any, words: str) -> None:
    message = complaint({"messages": [{"role": "user", "content": [part]}]})
    assert message.startswith("messages[0].content=")
    assert words in message


def test_media_beside_a_prompt_come_before_it() -> None:
    data = {"prompt": "same?", "videos": ["v.mp4"], "images": ["1.png", "2.png"]}
    request = GenerationRequest.parse(data)
    assert (request.images, request.videos) == (("1.png", "2.png"), ("v.mp4",))
    assert request.chat() == [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": "1.png"},
                {"type": "image", "image": "2.png"},
                {"type": "video", "video": "v.mp4"},
                {"type": "text", "text": "same?"},
            ],
        }
    ]


@pytest.mark.parametrize("images", [None, []])
def test_no_media_is_text(images: Any) -> None:
    request = GenerationRequest.parse({"prompt": "p", "images": images})
    assert request.media == []
    assert request.chat() == [{"role": "user", "content": "p"}]
    assert request.located("/folder") is request


def test_one_medium_needs_no_list() -> None:
    assert GenerationRequest.parse({"prompt": "p", "images": "1.png"}).images == ("1.png",)


def test_media_beside_messages_are_told_where_to_go() -> None:
    for field in ("images", "videos"):
        message = complaint({"messages": CHAT, field: ["x"]})
        assert 'put them into a message\'s content as parts: {"type": "image"' in message


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("images", [""], "images[0]='': "),
        ("images", "", "images[0]='': "),
        ("images", [5], "images[0]=5: should be a valid string"),
        ("videos", ["x", None], "videos[1]=None: should be a valid string"),
        ("videos", {"x": 1}, "a list of strings"),
        ("images", ["x"] * 65, "at most 64 items"),
        ("video_fps", 0, "video_fps=0: should be greater than 0"),
        ("video_fps", 241, "less than or equal to 240"),
        ("video_fps", "2", "valid number"),
        ("video_max_frames", 0, "greater than or equal to 1"),
        ("video_max_frames", 2.5, "valid integer"),
    ],
)
def test_malformed_media(field: str, value: Any, words: str) -> None:
    message = complaint({"prompt": "p", field: value})
    assert message.startswith(field)
    assert words in message


def test_messages_hold_no_more_media_than_a_prompt() -> None:
    def chat(images: int) -> dict[str, Any]:
        parts = [{"type": "image", "image": "x"}, {"type": "video", "video": "x"}] * images
        return {"messages": [{"role": "user", "content": parts}]}

    assert len(GenerationRequest.parse(chat(64)).media) == 128
    assert "messages hold 65 parts of type 'image': at most 64" in complaint(chat(65))


def test_relative_paths_are_located() -> None:
    prompt = GenerationRequest.parse({"prompt": "p", "images": ["a.png"], "videos": ["/b.mp4"]})
    part = {"type": "video", "video": "c.mp4"}
    chat = GenerationRequest.parse({"messages": [*CHAT, {"role": "user", "content": [part]}]})

    located = prompt.located("/folder")
    assert (located.images, located.videos) == (("/folder/a.png",), ("/b.mp4",))
    assert located.model_fields_set == prompt.model_fields_set
    assert chat.located(Path("/folder")).media == [{"type": "video", "video": "/folder/c.mp4"}]
    assert chat.media == [part], "the request itself is as it was"


def test_given_video_settings_override_the_defaults_and_no_others() -> None:
    defaults = VideoParams.of(video_fps=1.0, video_max_frames=8)
    for data, params in [
        ({}, defaults),
        ({"video_fps": 4}, VideoParams.of(video_fps=4.0, video_max_frames=8)),
        (
            {"video_max_frames": 2, "video_fps": None},
            VideoParams.of(video_fps=1, video_max_frames=2),
        ),
    ]:
        found = GenerationRequest.parse({"prompt": "p", **data}).over(defaults)
        assert type(found) is VideoParams
        assert found == params
    request = GenerationRequest.parse({"prompt": "p", "video_fps": 4, "max_tokens": 3})
    assert request.over(SamplingParams.of()) == SamplingParams.of(max_tokens=3)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "bot", "content": "x"}, "messages[0].role='bot': should be 'system', 'user'"),
        ({"content": "x"}, "messages[0].role: missing"),
        ({"role": "user"}, "messages[0].content: missing"),
        ({"role": "user", "content": None}, "messages[0].content: missing"),
        ({"role": "user", "content": 5}, "messages[0].content=5: should be a valid string"),
        ({"role": "user", "content": "x", "name": 5}, "messages[0].name=5"),
        (
            {"role": "user", "content": "x", "mood": 1},
            "unknown key 'mood'; allowed are annotations",
        ),
        ({"role": "assistant"}, "messages[0].content: missing"),
        ({"role": "assistant", "tool_calls": []}, "messages[0].content: missing"),
        ({"role": "assistant", "tool_calls": [1]}, "messages[0].tool_calls[0]=1: should be a"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].function: missing"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "argumentz": "{}"}}]},
            "messages[0].tool_calls[0].function.argumentz: unknown field, did you mean arguments?",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f"}, "at": 1}]},
            "messages[0].tool_calls[0].at: unknown field; allowed are id, type, function",
        ),
        ({"role": "user", "content": "x", "tool_calls": [1]}, "tool_calls: only a message of role"),
        ({"role": "user", "content": "x", "tool_call_id": "a"}, "role 'tool' has it"),
        ({"role": "user", "content": "x", "reasoning_content": "a"}, "role 'assistant' has it"),
        ({"role": "assistant", "function_call": {}}, "function_call: not supported; write it as"),
        ({"role": "assistant", "audio": {"id": "a"}}, "audio: not supported"),
        ({"role": "assistant", "content": "x", "refusal": "y"}, "one of content and refusal"),
        (
            {"role": "assistant", "reasoning": "x", "reasoning_content": "y"},
            "give one of reasoning",
        ),
        ("hi", "messages[0]='hi': should be a valid dictionary"),
    ],
)
def test_malformed_messages(message: Any, words: str) -> None:
    assert words in complaint({"messages": [message]})


def test_nulls_and_empty_lists_in_a_message_are_not_given() -> None:
    nothing = {"name": None, "tool_calls": [], "annotations": [], "function_call": None}
    message = {"role": "user", "content": "x", "audio": None, **nothing}
    request = GenerationRequest.parse({"messages": [message]})
    assert request.messages == [{"role": "user", "content": "x"}]


def message_of(**given: Any) -> Any:
    request = GenerationRequest.parse({"messages": [*CHAT, {"role": "assistant", **given}]})
    assert request.messages
    return {**request.messages[-1]}


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ({"function": {"name": "w", "arguments": '{"city": "Łódź"}'}}, {"city": "Łódź"}),
        ({"function": {"name": "w", "arguments": {"a": [1]}}, "type": "function"}, {"a": [1]}),
        ({"function": {"name": "w", "arguments": ""}, "id": None}, {}),
        ({"name": "w", "arguments": {"a": None}}, {"a": None}),
    ],
)
def test_calls_of_tools_in_one_form(call: Any, arguments: Any) -> None:
    function = {"name": "w", "arguments": arguments}
    calls = [{"type": "function", "function": function}]
    assert message_of(content=None, tool_calls=[call]) == {
        "role": "assistant",
        "content": "",
        "tool_calls": calls,
    }


@pytest.mark.parametrize("arguments", ["{", "[1]", "5", 5, ["a"]])
def test_arguments_of_a_call_are_an_object(arguments: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "w", "arguments": arguments}}
    said = complaint({"messages": [{"role": "assistant", "tool_calls": [call]}]})
    assert "messages[0].tool_calls[0].function.arguments=" in said
    assert "should be a JSON object" in said


def test_a_refusal_is_what_the_assistant_said() -> None:
    said = {"role": "assistant", "content": "I can't."}
    assert message_of(content=None, refusal="I can't.") == said
    assert message_of(content=[{"type": "refusal", "refusal": "I can't."}]) == said
    assert message_of(content="I can't.", refusal="", annotations=[{"type": "url"}]) == said


def test_reasoning_of_the_assistant_is_kept() -> None:
    for key in ("reasoning", "reasoning_content"):
        message = message_of(content="4", **{key: "2 and 2"})
        assert message == {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}


@pytest.mark.parametrize(
    ("given", "id"),
    [("a", "a"), (7, "7"), (0, "0"), (-1, "-1"), (3.0, "3"), ("x" * 512, "x" * 512)],
)
def test_ids(given: Any, id: str) -> None:
    assert GenerationRequest.parse({"prompt": "p", "id": given}).id == id


@pytest.mark.parametrize("given", ["", "x" * 513, True, 1.5, ["a"], {}])
def test_bad_ids(given: Any) -> None:
    assert complaint({"prompt": "p", "id": given}).startswith("id=")


@pytest.mark.parametrize("data", [{}, {"prompt": "a", "messages": CHAT}, {"prompt": None}])
def test_exactly_one_of_prompt_and_messages(data: dict[str, Any]) -> None:
    assert "exactly one of prompt and messages" in complaint(data)


@pytest.mark.parametrize(
    "data",
    [{"prompt": ""}, {"messages": []}, {"prompt": "", "messages": CHAT}, {"prompt": 5}],
)
def test_empty_is_an_error(data: dict[str, Any]) -> None:
    assert complaint(data).startswith(next(iter(data)))


def test_whitespace_is_a_prompt() -> None:
    assert GenerationRequest.parse({"prompt": " \n"}).prompt == " \n"


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("max_tokens", -1, "greater than or equal to 0"),
        ("max_tokens", "5", "valid integer"),
        ("max_tokens", True, "valid integer"),
        ("max_tokens", 5.5, "valid integer"),
        ("temperature", 2.5, "less than or equal to 2"),
        ("temperature", "0.5", "valid number"),
        ("top_p", 0, "greater than 0"),
        ("stop", 5, "a list of strings"),
        ("seed", -1, "greater than or equal to 0"),
        ("n", 0, "greater than or equal to 1"),
        ("n", 1025, "less than or equal to 1024"),
        ("n", True, "valid integer"),
        ("logprobs", 21, "less than or equal to 20"),
        ("logprobs", True, "how many of the most likely tokens to report; 0 is each token's own"),
        ("stop_on_repetition", 1, "valid boolean"),
    ],
)
def test_messages_name_field_value_and_range(field: str, value: Any, allowed: str) -> None:
    message = complaint({"prompt": "p", field: value})
    assert message.startswith(f"{field}={value!r}: ")
    assert allowed in message


def test_floats_that_are_whole_are_integers() -> None:
    given = {"max_tokens": 8.0, "seed": 1.0, "n": 2.0, "logprobs": 0.0, "video_max_frames": 4.0}
    request = GenerationRequest.parse({"prompt": "p", **given})
    assert request == GenerationRequest.parse(
        {"prompt": "p", "max_tokens": 8, "seed": 1, "n": 2, "logprobs": 0, "video_max_frames": 4}
    )
    assert type(request.seed) is int


def test_unknown_fields_are_named_with_the_known_ones() -> None:
    message = complaint({"prompt": "p", "foo": None})
    assert message.startswith("foo: unknown field; allowed are ")
    with pytest.raises(InvalidRequestError, match="unknown field, did you mean max_tokens"):
        GenerationRequest.parse({"prompt": "p", "max_token": 3})
    assert "max_tokens" in message
    assert "messages" in message


def test_requests_are_frozen() -> None:
    request = GenerationRequest.parse({"prompt": "p"})
    with pytest.raises(ValidationError, match="frozen"):
        request.prompt = "q"


def test_any_mapping_is_parsed() -> None:
    assert GenerationRequest.parse(MappingProxyType({"prompt": "p"})).prompt == "p"


def test_given_fields_override_the_defaults_and_no_others() -> None:
    defaults = SamplingParams.of(max_tokens=7, temperature=0.0, stop=["x"], seed=3)
    request = GenerationRequest.parse({"prompt": "p", "temperature": 0.7, "stop": "y"})
    sampling = request.over(defaults)
    assert type(sampling) is SamplingParams
    assert sampling == SamplingParams.of(max_tokens=7, temperature=0.7, stop=["y"], seed=3)
    assert defaults == SamplingParams.of(max_tokens=7, temperature=0.0, stop=["x"], seed=3)


@pytest.mark.parametrize(
    ("data", "default", "samples"), [({}, 1, 1), ({}, 4, 4), ({"n": 1}, 4, 1), ({"n": None}, 4, 4)]
)
def test_samples_are_the_requests_own_or_the_default(
    data: dict[str, Any], default: int, samples: int
) -> None:
    assert GenerationRequest.parse({"prompt": "p", **data}).samples(default) == samples


def test_n_is_no_sampling_parameter() -> None:
    """Each sample is a request of its own to an engine."""
    assert "n" not in SamplingParams.model_fields


@pytest.mark.parametrize("name", SamplingParams.model_fields)
def test_null_is_not_given(name: str) -> None:
    defaults = SamplingParams.of(
        max_tokens=7, temperature=0.1, top_p=0.2, top_k=3, min_p=0.4, stop=["x"], seed=3
    )
    request = GenerationRequest.parse({"prompt": "p", name: None, "messages": None, "id": None})
    assert request.model_fields_set == {"prompt"}
    assert request.over(defaults) == defaults


def test_parsing_is_fast() -> None:
    data = {"prompt": "Write a haiku.", "id": "a", "temperature": 0.5}
    seconds = min(timeit.repeat(lambda: GenerationRequest.parse(data), number=2000, repeat=5))
    assert seconds / 2000 < 50e-6  # 4 µs on the machine it was written on


def test_a_producer_needs_no_mlx() -> None:
    script = (
        "import sys, jobs.dataset.columns, jobs.requests, jobs.sources\n"
        "heavy = {'mlx', 'mlx_lm', 'mlx_vlm', 'transformers', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    root = Path(jobs.__file__).parents[1]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)


PLACE, ASK = {"type": "image"}, {"type": "text", "text": "?"}


def chat_of(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    "place", [PLACE, {"type": "image", "image": None}, {"type": "image", "text": None}]
)
def test_images_beside_messages_go_to_their_places(place: dict[str, Any]) -> None:
    """As datasets of Hugging Face have them, and Parquet with its nulls."""
    own = {"type": "image", "image": "own.png"}
    given = {"messages": chat_of(place, own, ASK, place), "images": ["a.png", "b.png"]}
    request = GenerationRequest.parse(given)
    assert request == GenerationRequest.parse(
        {
            "messages": chat_of(
                {"type": "image", "image": "a.png"},
                own,
                ASK,
                {"type": "image", "image": "b.png"},
            )
        }
    )
    assert given["messages"][0]["content"][0] == place


@pytest.mark.parametrize(
    ("media", "words"),
    [
        ({"images": ["a.png", "b.png"]}, "2 images, and 1 parts of messages"),
        ({"images": ["a.png"], "videos": ["a.mp4"]}, "1 videos, and 0 parts of messages"),
    ],
)
def test_there_are_as_many_places_as_media(media: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        GenerationRequest.parse({"messages": chat_of(PLACE, ASK), **media})
