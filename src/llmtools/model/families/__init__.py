"""One small declarative table per Hugging Face model family."""

from llmtools.model.families.family import Family as Family
from llmtools.model.families.llama import LLAMA

FAMILIES: dict[str, Family] = {family.model_type: family for family in (LLAMA,)}
