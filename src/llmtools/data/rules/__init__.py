"""The rules of `llm filter`: each measures documents and says which to drop, and why."""
