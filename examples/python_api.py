"""The engine as a library: one call, a stream, a chat, then many prompts in one batch."""

import asyncio

from vllm_mlx.engine import BatchedEngine
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.sampling_options import SamplingOptions

MODEL = "smollm2-135m"  # or a hub id, a local folder, a .gguf file

# Prompts of one batch, each with its own sampling parameters.
REQUESTS: list[tuple[str, SamplingOptions]] = [
    ("The capital of France is", {"max_tokens": 8, "temperature": 0, "stop": "\n"}),
    ("child -> children\ntooth ->", {"max_tokens": 4, "temperature": 0, "stop": ["\n"]}),
    ("Once upon a time, in a lighthouse,", {"max_tokens": 40, "temperature": 0.8, "seed": 7}),
]


def one_at_a_time() -> None:
    with MLXLanguageModel(MODEL) as model:
        print(model.generate("Water freezes at", 12, temperature=0).text)
        for chunk in model.stream_generate("Once there was a fox who", max_tokens=24, seed=1):
            print(chunk.text, end="", flush=True)
        print()
        question = {"role": "user", "content": "What is photosynthesis?"}
        for chunk in model.stream_chat([question], 48, temperature=0):
            print(chunk.text, end="", flush=True)
        print()


async def all_together() -> None:
    async with BatchedEngine(MODEL, max_num_seqs=8) as engine:
        outputs = await asyncio.gather(*(engine.generate(p, **options) for p, options in REQUESTS))
    for (prompt, _), out in zip(REQUESTS, outputs, strict=True):
        print(f"{prompt!r} -> {out.text!r}")
        print(f"  {out.prompt_tokens} + {out.completion_tokens} tokens, {out.finish_reason}")


if __name__ == "__main__":
    one_at_a_time()
    asyncio.run(all_together())
