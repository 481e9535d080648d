"""Text file -> ids: texts, tokenizers, and cached arrays of ids."""
