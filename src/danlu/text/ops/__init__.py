"""Cleaning steps: change a record, measure it, judge by what was measured."""
