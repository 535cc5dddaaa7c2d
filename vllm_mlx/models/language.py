"""`MLXLanguageModel`: a text model for plain, synchronous use."""

from __future__ import annotations

from typing import Unpack, overload

from vllm_mlx.batching.request import Request
from vllm_mlx.batching.request_list import each_of
from vllm_mlx.batching.stream import Stream
from vllm_mlx.models.base import Model
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_options import MoreOptions, SamplingOptions


class MLXLanguageModel(Model):
    """A language model by name: a hub id, a local folder, a `.gguf` file, or an alias.

    Example:
        >>> model = MLXLanguageModel("smollm2-135m")
        >>> model.generate("The capital of France is", max_tokens=8).text
    """

    @overload
    def generate(
        self, prompt: str, max_tokens: int | None = None, **options: Unpack[MoreOptions]
    ) -> GenerationOutput: ...
    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        max_tokens: int | None = None,
        **options: Unpack[MoreOptions],
    ) -> list[GenerationOutput]: ...
    def generate(
        self,
        prompt: str | list[str] | tuple[str, ...],
        max_tokens: int | None = None,
        **options: Unpack[MoreOptions],
    ) -> GenerationOutput | list[GenerationOutput]:
        """Continue a plain prompt, or a list of them in one batch.

        Args:
            prompt: continued as it stands, without a chat template. Of a list with something wrong
                in it none is begun, and the error names the index.
            max_tokens: most tokens to generate; 256 by default.
            **options: see `SamplingParams`.

        Returns:
            The whole output; of a list, a list of them, in order.

        Raises:
            InvalidRequestError: a value out of range, an unknown keyword, an empty prompt, or one
                beyond the model's context.
            ModelLoadError: the model was not loaded yet and can't be.
        """
        given: SamplingOptions = {"max_tokens": max_tokens, **options}
        if isinstance(prompt, list | tuple):
            return self._all(each_of(prompt, lambda each: Request.of_user(each, given)))
        return self._answers(Request.of_user(prompt, given))[0]

    def generate_samples(
        self, prompt: str, n: int, max_tokens: int | None = None, **options: Unpack[MoreOptions]
    ) -> list[GenerationOutput]:
        """Continue a prompt `n` times; takes what `generate` takes and computes its prefill once.

        Args:
            n: how many answers. With a seed all are repeatable, and the first is `generate`'s.

        Returns:
            The answers.

        Raises:
            InvalidRequestError: as for `generate`, or `n > 1` at temperature 0.
        """
        request = Request.of_user(prompt, {"max_tokens": max_tokens, **options})
        return self._answers(*request.samples(n))

    def stream_generate(
        self, prompt: str, max_tokens: int | None = None, **options: Unpack[MoreOptions]
    ) -> Stream:
        """Continue a plain prompt, piece by piece; takes what `generate` takes.

        Returns:
            A stream; it begins with the first chunk, and leaving a loop over it ends it.

        Raises:
            InvalidRequestError: an argument is wrong; what is found later is the stream's.
        """
        request = Request.of_user(prompt, {"max_tokens": max_tokens, **options})
        return Stream(self._submit, request)
