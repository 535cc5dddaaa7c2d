"""`python -m worker.cli` is `mlx-batch`."""

from worker.cli.app import main

main()
