"""Folders and patterns of media files as an input: a row a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import InputFileError
from jobs.sources import Format, MediaFiles, PromptFile, input_of
from vllm_mlx.errors import InvalidRequestError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def names(pattern: object, **options: Any) -> list[str]:
    return [file.name for file in MediaFiles.of("video", str(pattern), "what?").files]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    found = ["b.mp4", "a.MP4", "sub/c.webm", "sub/deep/a.mp4", "sub.mp4/x.txt"]
    return touch(tmp_path / "clips", *found, "notes.txt", ".hidden.mp4", "still.png")


def test_a_row_a_file(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clips.parent)
    found = MediaFiles.of("video", "clips/*.mp4", "What happens?")

    assert (found.path, found.folder, found.format) == (Path("clips/*.mp4"), clips, Format.MEDIA)
    [row] = found.rows()
    assert row.data == {"id": "b.mp4", "prompt": "What happens?", "video": f"{clips}/b.mp4"}
    assert (row.row, row.line) == (0, 1)
    [image] = MediaFiles.of("image", "clips/*.png", "?").rows()
    assert image.data["image"] == f"{clips}/still.png"


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
        MediaFiles.of("video", clips / "sub.mp4" / pattern, "p")
    with pytest.raises(InputFileError, match=r"\.mkv, \.mov"):
        MediaFiles.of("video", clips / "empty", "p")
    with pytest.raises(InputFileError, match="empty"):  # and not the working directory
        MediaFiles.of("video", "", "p")


def test_whatever_changes_the_rows_changes_the_fingerprint(clips: Path) -> None:
    def fingerprint(prompt: str = "p") -> str:
        return MediaFiles.of("video", clips, prompt).fingerprint()

    found = [fingerprint(), fingerprint("q"), MediaFiles.of("image", clips, "p").fingerprint()]
    found.append(MediaFiles.of("video", clips / "*.mp4", "p").fingerprint())
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
    before = MediaFiles.of("video", clips, "p").fingerprint()
    clips.rename(clips.parent / "moved")
    assert MediaFiles.of("video", clips.parent / "moved", "p").fingerprint() == before


def test_a_version_notices_a_change(clips: Path) -> None:
    found = MediaFiles.of("video", clips, "p")
    version = found.version()
    assert version == found.version()
    touch(clips, "new.mp4")
    assert version != found.version()


def test_the_one_input_that_is_named(clips: Path) -> None:
    prompts = touch(clips, "prompts.txt") / "prompts.txt"
    assert isinstance(input_of(prompts), PromptFile)
    assert input_of(prompts).folder == clips
    assert isinstance(input_of(videos=clips, prompt="p"), MediaFiles)
    for options, words in [
        ({}, "give one of"),
        ({"path": prompts, "videos": clips, "prompt": "p"}, "stands in quotes"),
        ({"videos": clips, "images": clips, "prompt": "p"}, "give one of"),
        ({"videos": clips}, "need a prompt"),
        ({"images": clips, "prompt": ""}, "need a prompt"),
        ({"path": prompts, "prompt": "p"}, "a file has its own"),
    ]:
        with pytest.raises(InvalidRequestError, match=words):
            input_of(**options)  # type: ignore[arg-type]
