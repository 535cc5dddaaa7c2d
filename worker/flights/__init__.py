"""The jobs that a worker has in hand, from their rows to their part of the dataset."""
