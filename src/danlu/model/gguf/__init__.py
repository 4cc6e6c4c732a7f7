"""GGUF, the form that llama.cpp and Ollama read."""
