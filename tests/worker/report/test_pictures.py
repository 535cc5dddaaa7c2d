"""Pictures of images and videos: read where they lie, within what is allowed and a budget."""

from __future__ import annotations

import io
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from tests.helpers.browser import Browser
from tests.helpers.clips import make_clip
from tests.helpers.reported import answer, row, write_dataset
from vllm_mlx.media.policy import UNRESTRICTED, MediaPolicy
from worker.cli.app import main
from worker.report import write_report
from worker.report.pictures import Pictures

COLUMNS = {"prompt": "string", "image": "string", "video": "string"}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, a clip, and what is none of them."""
    folder = tmp_path_factory.mktemp("media")
    Image.new("RGB", (600, 300), "red").save(folder / "red.png")
    make_clip(folder / "clip.mp4", frames=12, fps=4)
    (folder / "broken.mp4").write_bytes(b"no film")
    return folder


def picture_of(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(b64decode(data)))


def test_an_image_becomes_a_thumbnail_and_a_video_a_strip(media: Path) -> None:
    pictures = Pictures(UNRESTRICTED, 1_000_000)

    image = pictures.of("image", str(media / "red.png"))
    video = pictures.of("video", str(media / "clip.mp4"))

    assert image == {"kind": "image", "name": f"{media}/red.png", "at": 0, "note": "600 x 300"}
    assert picture_of(pictures.urls[0]).size == (240, 120)
    assert video["note"] == "at 0.0, 0.5, 1.0, 1.5, 2.0, 2.5 of 3.0 s"
    strip = picture_of(pictures.urls[1])
    assert strip.width > 5 * strip.height
    assert pictures.of("image", str(media / "red.png"))["at"] == 0, "it is read once"
    assert len(pictures.urls) == 2


@pytest.mark.parametrize(
    ("kind", "source", "says"),
    [
        ("image", "gone.png", "not read: "),
        ("video", "broken.mp4", "FFmpeg can't read it"),
        ("image", "clip.mp4", "no image of a known format"),
        ("image", "https://user:secret@example.org/a.png?key=secret", "not read: "),
        ("image", "data:image/png;base64,… (900 bytes)", "given inline"),
    ],
)
def test_what_cannot_be_read_says_why(media: Path, kind: Any, source: str, says: str) -> None:
    pictures = Pictures(MediaPolicy.of([media], ()), 1_000_000)

    path = source if ":" in source else str(media / source)
    picture = pictures.of(kind, path)

    assert "at" not in picture
    assert says in picture["note"]
    assert "secret" not in str(picture)


def test_beyond_the_budget_nothing_is_read(media: Path) -> None:
    pictures = Pictures(UNRESTRICTED, 100)

    pictures.of("image", str(media / "red.png"))
    late = pictures.of("video", str(media / "clip.mp4"))

    assert "room and time" in late["note"]
    assert pictures.left_out == 1


def shows(media: Path, tmp_path: Path) -> Path:
    """A dataset of three rows with media, whose input lies in the folder of these."""
    (tmp_path / "elsewhere.png").write_bytes((media / "red.png").read_bytes())
    rows = [
        row(0, answer(0, "A red picture."), image="red.png", video=None),
        row(1, answer(1, "Numbers."), image=None, video="clip.mp4"),
        row(2, answer(2, "Elsewhere."), image=str(tmp_path / "elsewhere.png"), video=None),
    ]
    given = {"path": str(media / "in.jsonl"), "format": "jsonl", "media": None}
    return write_dataset(tmp_path / "shows", rows, columns=COLUMNS, input=given)


def test_only_what_is_allowed_is_read(media: Path, tmp_path: Path) -> None:
    root = shows(media, tmp_path)

    def pictures(*options: str) -> int:
        words = ["report", str(root), *options]
        CliRunner().invoke(main, words, catch_exceptions=False)
        return (root / "_job" / "report.html").read_text().count("data:image/jpeg")

    assert pictures() == 2, "the input's folder"
    assert pictures("--no-input-media") == 0
    assert pictures("--allowed-media-path", str(tmp_path)) == 3
    assert pictures("--no-input-media", "--allowed-media-path", str(tmp_path)) == 1


def test_the_page_shows_them_with_their_captions(
    browser: Browser, media: Path, tmp_path: Path
) -> None:
    report = write_report(shows(media, tmp_path))

    browser.open(report)
    browser.choose("select[name=view]", "gallery")
    browser.wait_for("[...document.images].every((image) => image.complete)")

    assert browser.value("[...document.images].map((image) => image.naturalWidth)")[0] == 240
    captions = browser.value(
        "[...document.querySelectorAll('.gallery > figure')].map((each) => each.innerText)"
    )
    assert "A red picture." in captions[0]
    assert "clip.mp4 (at 0.0, 0.5" in captions[1]
    assert "elsewhere.png (not read: neither its folder nor its host was allowed" in captions[2]

    browser.open(report, "#q=numbers")
    assert browser.value("document.querySelectorAll('.row .media img').length") == 1
