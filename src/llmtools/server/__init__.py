"""One model over the OpenAI HTTP API."""
