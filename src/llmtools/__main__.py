"""`python -m llmtools` is the same program as the `llm` script."""

from llmtools.cli import main

if __name__ == "__main__":
    main()
