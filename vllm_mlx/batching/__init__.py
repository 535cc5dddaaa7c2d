"""The one core that every model and engine steps: requests, sequences, a scheduler, a thread."""
