"""llmtools: one executable, `llm`, from raw text to a served, evaluated, quantized model."""

__version__ = "0.1.0"
