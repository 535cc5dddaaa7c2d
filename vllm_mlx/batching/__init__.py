"""The one core that every model and engine steps: sequences, a scheduler, a runner, a thread."""
