"""Settings in the rows of a file act as those of a call do, each in its own row alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from vllm_mlx.models import MLXLanguageModel

CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
LA = {"prompt": "la la la la la la la la"}
ROWS: dict[str, dict[str, Any]] = {
    "free": LA,
    "presence": LA | {"presence_penalty": 2.0},
    "frequency": LA | {"frequency_penalty": 0.75},
    "drawn": LA | {"temperature": 1.0, "seed": 5.0, "frequency_penalty": -0.5},
    "free chat": CHAT,
    "bias": CHAT | {"logit_bias": {"7042": -100, "198": 3}},
    "stop": CHAT | {"stop_token_ids": [7042.0]},
    "longer": CHAT | {"min_tokens": 14, "stop": "France"},
    "goes on": {
        "messages": [*CHAT["messages"], {"role": "assistant", "content": "It is the city of"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    "endless": CHAT | {"ignore_eos": True},
}
RUN = [sys.executable, "-m", "worker.cli", "run", "p.jsonl", "--model", "smollm2-135m"]
RUN += ["--out", "out", "--temperature", "0", "--max-tokens", "16"]


@pytest.mark.slow
def test_each_setting_acts_in_its_row(tmp_path: Path, language_model: MLXLanguageModel) -> None:
    rows = [{"id": id, **row} for id, row in ROWS.items()]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    subprocess.run(RUN, cwd=tmp_path, capture_output=True, check=True)

    table = ds.dataset(tmp_path / "out" / "data").to_table().to_pylist()
    said = {row["id"]: row["text"] for row in table}
    defaults: dict[str, Any] = {"max_tokens": 16, "temperature": 0}
    for id, row in ROWS.items():
        call = language_model.chat if "messages" in row else language_model.generate
        assert said[id] == call(**defaults | row).text, id
    assert len(set(said.values())) == len(ROWS), said
