"""One table a family: config and weight names to and from the Hugging Face form."""
