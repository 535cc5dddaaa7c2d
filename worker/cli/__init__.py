"""The command line, `mlx-batch`."""
