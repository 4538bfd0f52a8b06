"""Matching whole models: the plan of a run, its folder, its workers, and the chain that follows from it."""
