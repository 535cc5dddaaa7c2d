"""`mlx-batch plan`: what a run would take and meet, found without running it."""
