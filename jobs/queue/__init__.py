"""The jobs of a run in RQ: every touch of RQ on the producer's side."""
