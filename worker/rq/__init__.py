"""An RQ worker with many jobs in flight: every touch of RQ on the worker's side."""
