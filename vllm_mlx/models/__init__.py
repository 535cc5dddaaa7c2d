"""Models by name: `MLXLanguageModel` for text."""

from vllm_mlx.models.language import MLXLanguageModel

__all__ = ["MLXLanguageModel"]
