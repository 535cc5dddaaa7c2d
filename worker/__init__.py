"""The RQ worker that packs many jobs into one engine, and the command line."""
