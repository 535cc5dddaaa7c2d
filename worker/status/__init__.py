"""Where a run stands: what workers say of themselves, and what is made of it."""
