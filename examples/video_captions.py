"""Draw clips, caption them through Redis, and look at the result: a contact sheet.

    python examples/video_captions.py [--clips 12] [--out captions] [--no-open]

It leaves `clips/*.mp4` and a picture, `clips/photo.png`, a dataset, and `contact-sheet.png`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.dataset as ds
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

from examples.tiny_vlm import scenes

MODEL = Path(__file__).parent / "tiny_vlm" / "model"
SIDE, COLUMNS, LINES = 192, 4, 44  # pixels a picture, pictures a row, pixels for the caption


def draw_clips(folder: Path, count: int) -> None:
    rng = np.random.default_rng(1)
    folder.mkdir(exist_ok=True)
    picture, _ = scenes.draw_image(rng)
    Image.fromarray(picture).save(folder / "photo.png")
    for number in range(count):
        draw = scenes.event_clip if number % 3 == 2 else scenes.moving_clip
        frames, _ = draw(rng)
        scenes.write_clip(folder / f"clip-{number:02}.mp4", frames, 8)


def caption(folder: Path, out: str) -> None:
    command = ["run", "--videos", f"{folder}/*.mp4", "--prompt", "Describe this video."]
    command += ["--model", str(MODEL), "--out", out, "--temperature", "0", "--max-tokens", "40"]
    subprocess.run([sys.executable, "-m", "worker.cli", *command, "--resume"], check=True)


def contact_sheet(rows: list[dict[str, Any]]) -> Image.Image:
    height = SIDE + LINES
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(rows) // COLUMNS) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for at, row in enumerate(rows):
        x, y = at % COLUMNS * SIDE, at // COLUMNS * height
        sheet.paste(middle_frame(row["video"]).resize((SIDE, SIDE)), (x, y))
        pen.multiline_text(
            (x + 4, y + SIDE + 4), wrapped(row["text"] or row["error"]), fill="black"
        )
    return sheet


def middle_frame(path: str) -> Image.Image:
    with av.open(path) as container:
        frames = list(container.decode(video=0))
    return frames[len(frames) // 2].to_image()


def wrapped(text: str, width: int = 30) -> str:
    lines = [""]
    for word in text.split():
        lines += [""] if len(lines[-1]) + len(word) > width else []
        lines[-1] += f"{word} "
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--out", default="captions")
    parser.add_argument("--no-open", action="store_true", help="don't show the contact sheet")
    given = parser.parse_args()
    draw_clips(Path("clips"), given.clips)
    caption(Path("clips"), given.out)
    rows = ds.dataset(f"{given.out}/data").to_table().sort_by("row").to_pylist()
    contact_sheet(rows).save("contact-sheet.png")
    print(f"{len(rows)} clips: contact-sheet.png, {rows[0]['video']}: {rows[0]['text']}")
    if not given.no_open:
        webbrowser.open(Path("contact-sheet.png").absolute().as_uri())


if __name__ == "__main__":
    main()
