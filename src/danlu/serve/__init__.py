"""The engine behind HTTP: OpenAI's API and a chat page."""
