"""The families that can be read and written, by name. A new family is one file and one line here."""

from __future__ import annotations

from danlu.model.families.baichuan import BAICHUAN
from danlu.model.families.family import Family
from danlu.model.families.internlm2 import INTERNLM2
from danlu.model.families.llama import LLAMA
from danlu.model.families.mistral import MISTRAL
from danlu.model.families.qwen2 import QWEN2
from danlu.model.families.qwen3 import QWEN3
from danlu.model.families.yi import YI

FAMILIES: dict[str, Family] = {
    family.name: family for family in (QWEN2, QWEN3, LLAMA, MISTRAL, YI, INTERNLM2, BAICHUAN)
}
