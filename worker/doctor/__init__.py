"""`mlx-batch doctor`: whether this machine has what a worker needs, line by line."""
