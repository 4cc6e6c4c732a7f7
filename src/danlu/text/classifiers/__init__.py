"""Classifiers of text: hashed n-grams trained here, and files of fastText."""
