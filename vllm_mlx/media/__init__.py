"""Images and videos, from where they lie to arrays of pixels. Nothing here needs MLX."""
