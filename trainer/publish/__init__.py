"""A finished run in the form that others can use: a folder with its card, GGUF, Ollama, MLX, vLLM, the hub."""
