"""The survey of language models: every preset beside what was published of it."""
