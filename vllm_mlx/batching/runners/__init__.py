"""What steps a model; `slots/` beside it is the one that most models run in."""
