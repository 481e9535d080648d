"""The course: lessons whose every number and picture is computed by this program, told in five languages.

`lesson.py` reads a lesson, `session.py` runs its cells, and `terminal.py`, `notebook.py` and `pages.py` show it.
"""
