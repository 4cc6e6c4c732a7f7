"""Files whose text stands in a form of its own: pages, archives of pages, LaTeX, books, source code."""
