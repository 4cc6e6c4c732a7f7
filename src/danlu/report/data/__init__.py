"""The report of a clean stage: what came in and went out, thresholds to move, and examples of every drop."""
