"""Models that see, of mlx-vlm: the only place of ours that knows it."""
