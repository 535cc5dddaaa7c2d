"""From tokens to what a caller reads: text, thoughts, calls of tools."""
