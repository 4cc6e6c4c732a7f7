"""A generated bilingual world: documents, conversations, preference pairs and exactly known questions."""

from danlu.text.sample.settings import SampleSettings
from danlu.text.sample.write import sample

__all__ = ["SampleSettings", "sample"]
