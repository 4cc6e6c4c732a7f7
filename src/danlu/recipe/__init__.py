"""A recipe: stages in order, each run when what it depends on has changed."""
