"""The packing core: a key-value cache of slots in a ring, and the runner that steps it."""
