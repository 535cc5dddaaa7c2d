"""Inference on MLX: models, engines and the batching core.

The light modules (`sampling_params`, `outputs`, `errors`) import no MLX, so a producer that
only enqueues work can use them on a machine that has none.
"""

__version__ = "0.1.0"
