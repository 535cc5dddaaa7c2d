"""Models by name: `MLXLanguageModel` for text, `MLXMultimodalLM` for images and videos, too."""

from vllm_mlx.models.language import MLXLanguageModel
from vllm_mlx.models.multimodal import MLXMultimodalLM

__all__ = ["MLXLanguageModel", "MLXMultimodalLM"]
