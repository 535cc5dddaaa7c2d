"""Folders and patterns of media files as an input: a row a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import InputFileError
from jobs.sources import Format, MediaFiles, PromptFile, Template, input_of
from vllm_mlx.errors import InvalidRequestError

ASKED = Template.of(prompt="What happens?")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def names(pattern: object, **options: Any) -> list[str]:
    return [file.name for file in MediaFiles.of("video", str(pattern), ASKED).files]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    found = ["b.mp4", "a.MP4", "sub/c.webm", "sub/deep/a.mp4", "sub.mp4/x.txt"]
    return touch(tmp_path / "clips", *found, "notes.txt", ".hidden.mp4", "still.png")


def test_a_row_a_file(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clips.parent)
    found = MediaFiles.of("video", "clips/*.mp4", ASKED)

    assert (found.path, found.folder, found.format) == (Path("clips/*.mp4"), clips, Format.MEDIA)
    [row] = found.rows()
    assert row.data == {
        "columns": {"id": "b.mp4", "video": f"{clips}/b.mp4"},
        "request": {"prompt": "What happens?"},
    }
    assert (row.row, row.line) == (0, 1)
    [image] = MediaFiles.of("image", "clips/*.png", ASKED).rows()
    assert image.data["columns"]["image"] == f"{clips}/still.png"


def test_ids_are_paths_below_where_the_pattern_begins(clips: Path) -> None:
    assert names(clips) == ["a.MP4", "b.mp4", "sub/c.webm", "sub/deep/a.mp4"]
    assert names(clips / "**" / "a.*") == ["a.MP4", "sub/deep/a.mp4"]
    assert names(clips / "sub" / "*" / "*.mp4") == ["deep/a.mp4"]
    assert names(clips.parent / "*" / "b.mp4") == ["clips/b.mp4"]
    assert names(clips / "b.mp4") == ["b.mp4"]
    assert names(clips / "*.txt") == ["notes.txt"], "a pattern means what it matches"


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "clip[1].mp4", "clip1.mp4")
    assert names(tmp_path / "clip[1].mp4") == ["clip[1].mp4"]
    assert names(tmp_path / "clip[1-3].mp4") == ["clip1.mp4"]


def test_the_home_folder_is_known(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(clips))
    assert names("~/*.mp4") == ["b.mp4"]


def test_a_broken_link_is_a_row(tmp_path: Path) -> None:
    """Its row will be in error; left out, nobody would know."""
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == names(tmp_path / "*.mp4") == names(tmp_path / "gone.mp4")
    assert names(tmp_path) == ["gone.mp4"]


@pytest.mark.parametrize("pattern", ["", "*.avi", "none.mp4", "none/*.mp4", "empty"])
def test_no_files_are_an_error(clips: Path, pattern: str) -> None:
    (clips / "empty").mkdir()
    with pytest.raises(InputFileError, match="there is no such video"):
        MediaFiles.of("video", clips / "sub.mp4" / pattern, ASKED)
    with pytest.raises(InputFileError, match=r"\.mkv, \.mov"):
        MediaFiles.of("video", clips / "empty", ASKED)
    with pytest.raises(InputFileError, match="empty"):  # and not the working directory
        MediaFiles.of("video", "", ASKED)


def test_whatever_changes_the_rows_changes_the_fingerprint(clips: Path) -> None:
    def fingerprint() -> str:
        return MediaFiles.of("video", clips, ASKED).fingerprint()

    found = [fingerprint(), MediaFiles.of("image", clips, ASKED).fingerprint()]
    found.append(MediaFiles.of("video", clips / "*.mp4", ASKED).fingerprint())
    os.utime(clips / "b.mp4", ns=(1, 1))
    found.append(fingerprint())
    (clips / "b.mp4").write_bytes(b"longer than before")
    os.utime(clips / "b.mp4", ns=(1, 1))
    found.append(fingerprint())
    (clips / "b.mp4").rename(clips / "bb.mp4")
    found.append(fingerprint())

    assert len(set(found)) == len(found)
    assert fingerprint() == found[-1]
    assert found[0].startswith("sha256:")


def test_a_moved_folder_is_the_same_input(clips: Path) -> None:
    before = MediaFiles.of("video", clips, ASKED).fingerprint()
    clips.rename(clips.parent / "moved")
    assert MediaFiles.of("video", clips.parent / "moved", ASKED).fingerprint() == before


def test_a_version_notices_a_change(clips: Path) -> None:
    found = MediaFiles.of("video", clips, ASKED)
    version = found.version()
    assert version == found.version()
    touch(clips, "new.mp4")
    assert version != found.version()


def test_the_one_input_that_is_named(clips: Path) -> None:
    prompts = touch(clips, "prompts.txt") / "prompts.txt"
    assert isinstance(input_of(prompts), PromptFile)
    assert input_of(prompts).folder == clips
    assert isinstance(input_of(videos=clips, template=ASKED), MediaFiles)
    for options, words in [
        ({}, "give one of"),
        ({"path": prompts, "videos": clips, "template": ASKED}, "stands in quotes"),
        ({"videos": clips, "images": clips, "template": ASKED}, "give one of"),
        ({"videos": clips}, "need a prompt"),
        ({"images": clips, "template": Template.of(system="s")}, "need a prompt"),
    ]:
        with pytest.raises(InvalidRequestError, match=words):
            input_of(**options)  # type: ignore[arg-type]


def test_texts_are_over_the_names_of_a_file(clips: Path) -> None:
    template = Template.of(prompt="{{ path }}|{{ name }}|{{ folder }}")
    found = MediaFiles.of("video", clips / "**" / "*.mp4", template)
    said = [found.dialect.request(row.data).prompt for row in found.rows()]
    assert said == ["b.mp4|b.mp4|clips", "sub/deep/a.mp4|a.mp4|deep"]

    [row, *_] = MediaFiles.of("video", clips, Template.of(prompt="{{ title }}")).rows()
    assert str(row.error) == "prompt: 'title' is undefined; the row has path, name, folder"


def test_a_file_is_shown_before_what_the_user_says_last(clips: Path) -> None:
    chat = [
        {"role": "user", "content": "Be brief."},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "What is {{ name }}?"},
    ]
    found = MediaFiles.of("image", clips / "still.png", Template.of(messages=chat, system="s"))

    [row] = found.rows()

    request = found.dialect.request(row.data)
    assert request.messages is not None
    assert [message["role"] for message in request.messages] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert request.messages[-1]["content"] == [
        {"type": "image", "image": f"{clips}/still.png"},
        {"type": "text", "text": "What is still.png?"},
    ]
    assert found.dialect.columns(row.data).keys() == {"image", "messages"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"id_column": "name"}, "id_column: videos of a folder have no columns"),
        ({"image_column": "name"}, "image_column: videos of a folder have no columns"),
    ],
)
def test_what_does_nothing_for_files_is_refused(
    clips: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        MediaFiles.of("video", clips, Template.of(prompt="p", **options))
    seen = [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]
    with pytest.raises(InvalidRequestError, match="no videos of its own"):
        MediaFiles.of("video", clips, Template.of(messages=seen))
