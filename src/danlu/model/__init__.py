"""The decoder, its head, its attention, and its way to and from Hugging Face folders."""
