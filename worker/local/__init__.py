"""A whole run on one machine: its server, its workers, its display and its end."""
