"""One decoder definition; a model is a config and a name table."""

from llmtools.model.config import ModelConfig as ModelConfig
from llmtools.model.config import config_from_hf as config_from_hf
from llmtools.model.config import load_config as load_config
from llmtools.model.decoder import Decoder as Decoder
from llmtools.model.load import load_model as load_model
from llmtools.model.load import save_model as save_model
from llmtools.model.packed import PackedRows as PackedRows
