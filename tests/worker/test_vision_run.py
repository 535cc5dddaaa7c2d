"""A prompt file of text, images and videos becomes one dataset, with a model that sees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

from examples.tiny_vlm import scenes
from jobs.model_identity import identify
from tests.helpers.vlm import TINY

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media") / "clips"
    folder.mkdir()
    rng = np.random.default_rng(5)
    picture = scenes.draw(scenes.Scene((scenes.Thing("red", "circle", 0.5, 0.5, 0.3),)))
    Image.fromarray(picture).save(folder / "photo.png")
    for name in ("a.mp4", "b.mp4"):
        scenes.write_clip(folder / name, scenes.moving_clip(rng)[0], 8)
    return folder


@pytest.fixture
def folder(clips, tmp_path):
    shutil.copytree(clips, tmp_path / "clips")
    return tmp_path


SPY = """
import os, sys
from pathlib import Path

def note(event, given):
    if event == "import" and given[0] == "decord":
        Path(os.environ["NOTES"]).write_text("decord")

sys.addaudithook(note)
"""


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """The file that the engine's process writes when it reads by decord, which it then imports."""
    (tmp_path / "spy").mkdir()
    (tmp_path / "spy" / "sitecustomize.py").write_text(SPY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'spy'}{os.pathsep}{ROOT}")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return tmp_path / "notes"


def run(folder, *arguments):
    command = [sys.executable, "-m", "worker.cli", "run", *arguments]
    command += ["--model", str(TINY), "--out", "out", "--temperature", "0", "--max-tokens", "24"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    rows = ds.dataset(folder / "out" / "data").to_table().to_pylist()
    return {row["id"]: row for row in rows}


def test_a_file_that_mixes_text_images_and_videos(folder):
    part = {"type": "video_url", "video_url": {"url": "clips/b.mp4"}}
    ask = {"type": "text", "text": "Describe this video."}
    rows = [
        {"id": "text", "messages": [{"role": "user", "content": "Hello"}]},
        {"id": "image", "prompt": "What color is it?", "image": "clips/photo.png"},
        {
            "id": "both",
            "prompt": "Describe.",
            "images": ["clips/photo.png"],
            "video": "clips/a.mp4",
        },
        {"id": "part", "messages": [{"role": "user", "content": [part, ask]}], "video_fps": 1.0},
        {"id": "missing", "prompt": "Describe.", "image": "clips/nothing.png"},
        {"id": "secret", "prompt": "Describe.", "image": "/etc/passwd"},
        {"id": "far", "prompt": "Describe.", "image": "https://example.com/a.png"},
    ]
    (folder / "mixed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = run(folder, "mixed.jsonl", "--shard-size", "3")
    assert len(made) == len(rows)
    assert made["text"]["media"] is None
    assert "red" in made["image"]["text"].lower()
    assert [each["kind"] for each in made["both"]["media"]] == ["image", "video"]
    assert made["part"]["media"][0]["timestamps"] == [0.0, 1.0, 2.0, 3.0]
    assert made["missing"]["error_type"] == "MediaError"
    assert "nothing.png" in made["missing"]["error"]
    assert made["secret"]["error_type"] == made["far"]["error_type"] == "MediaNotAllowedError"
    assert "--allowed-media-domain example.com" in made["far"]["error"]
    manifest = json.loads((folder / "out" / "_job" / "manifest.json").read_text())
    names = {manifest["model"], *(row["model"] for row in made.values())}
    assert names == {identify(str(TINY)).name}


@pytest.mark.parametrize("reader", ["auto", "decord"])
def test_a_pattern_of_videos_with_one_prompt(folder, notes, reader):
    asked = ["--videos", "clips/*.mp4", "--prompt", "Describe.", "--video-max-frames", "4"]
    made = run(folder, *asked, "--video-reader", reader)
    assert notes.exists() is (reader == "decord")
    assert set(made) == {"a.mp4", "b.mp4"}
    assert all(row["finish_reason"] == "stop" for row in made.values())
    assert all(len(row["media"][0]["timestamps"]) == 4 for row in made.values())
