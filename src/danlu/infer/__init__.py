"""From a decoder and prompts to tokens: one engine for chat, files of prompts, evaluation and serving."""
