"""The engine in a process of its own, which may die and is started again."""
